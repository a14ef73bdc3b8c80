"""What is wished of the output for one text, checked against itself, and turned into rules for the search."""

from __future__ import annotations

import functools
import itertools
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from itda.batch import UNK
from itda.decode.automaton import Automaton, Spelling
from itda.decode.constraints import Banned, Beginning, Begins
from itda.decode.penalties import MinLength, NoRepeat, Repetition
from itda.decode.required import Demand, Phrase, Required, Way
from itda.decode.rules import Rule, RuleBook
from itda.errors import UserError
from itda.text.subwords import ESCAPE, SPACE_MARK, STAND_IN

MOST_REQUIRED = 60  # phrases of one text: each has a bit


@dataclass(frozen=True)
class Wish:
    """What the output for one text must begin with, what must stand in it, each so many times, and what must not."""

    prefix: str = ""
    must: tuple[tuple[str, int], ...] = ()
    must_not: tuple[str, ...] = ()

    @property
    def writes(self) -> bool:
        """Say whether something must be written, even for a blank text."""
        return bool(self.prefix or self.must)


@dataclass(frozen=True)
class Manners:
    """What holds for each text alike: no n-gram of tokens twice, repeated tokens cost more, no end too early."""

    no_repeat_ngram: int = 0
    repetition_penalty: float = 0.0
    min_length: int = 0


def check_phrase(phrase: object, name: str) -> str:
    """Refuse what can be no part of one line of text."""
    if not isinstance(phrase, str) or not phrase:
        raise UserError(f"{name} holds {phrase!r:.60}; each phrase must be a text of one character or more")
    bad = next(
        (char for char in phrase if char in f"\r\n{STAND_IN}{ESCAPE}\ufffd" or "\ud800" <= char <= "\udfff"), None
    )
    if bad is not None:
        raise UserError(f"{name} holds {phrase!r:.60} with {bad!r}, which no output can hold; leave that character out")
    return phrase


def make_wish(spelling: Spelling, prefix: str, must: Counter[str], must_not: Sequence[str], manners: Manners) -> Wish:
    """Bring wishes into the tokenizer's normal form, and refuse those that contradict each other."""
    form = spelling.tokenizer.normalize
    required = Counter[str]()
    for phrase, count in must.items():
        required[form(phrase)] = max(required[form(phrase)], count)
    wish = Wish(form(prefix), tuple(required.items()), tuple(dict.fromkeys([*map(form, must_not), *must_not])))
    if len(wish.must) > MOST_REQUIRED:
        raise UserError(f"must asks for {len(wish.must)} phrases in one text; {MOST_REQUIRED} are the most")
    for banned in wish.must_not:
        if banned in wish.prefix:
            raise UserError(f"prefix {wish.prefix!r} holds {banned!r}, which must_not forbids; change one of them")
        clash = next((phrase for phrase, _ in wish.must if banned in phrase), None)
        if clash is not None:
            raise UserError(f"must asks for {clash!r}, and must_not forbids {banned!r} in it; change one of them")
    if manners.no_repeat_ngram:
        _check_repeats(spelling, wish, manners.no_repeat_ngram)
    return wish


def _check_repeats(spelling: Spelling, wish: Wish, size: int) -> None:
    """Refuse what cannot be written without an n-gram twice."""
    parts = spelling.tokenizer.parts
    named = [("prefix", wish.prefix, parts(wish.prefix)), *(("must", phrase, parts(phrase)) for phrase, _ in wish.must)]
    for name, text, tokens in named:
        ids = [token for token, _ in tokens]
        if max(Counter(tuple(ids[at : at + size]) for at in range(len(ids) - size + 1)).values(), default=0) > 1:
            raise UserError(
                f"{name} {text!r} repeats {size} token(s), and no_repeat_ngram = {size} forbids it; change one of them"
            )
    grams = {phrase: Phrase(_ways(spelling, phrase)).grams(size) for phrase, _ in wish.must}
    for one, other in itertools.combinations(grams, 2):
        if one not in other and other not in one and grams[one] & grams[other]:
            raise UserError(
                f"must asks for {one!r} and {other!r}, which share {size} token(s), and no_repeat_ngram = {size} "
                "forbids to repeat them; change one of them"
            )
    for phrase, count in wish.must:
        if count > 1 and all(len(way) >= size for way in _ways(spelling, phrase)):
            raise UserError(
                f"must asks for {phrase!r} {count} times (must, terminology or placeholders), and no_repeat_ngram = "
                f"{size} forbids to repeat it; change one of them"
            )


def make_rules(
    spelling: Spelling, wishes: Sequence[Wish], manners: Manners, *, alone: bool, replaced: bool
) -> RuleBook | None:
    """Make the rules for a batch of texts; None where there are none.

    `alone`: each beam has one row. `replaced`: something else will stand in place of an <unk>, and nobody knows what
    yet; so where text is wished for, none is written but those that the wishes name.
    """
    rules: list[Rule] = []
    if manners.min_length:
        rules.append(MinLength(manners.min_length))
    if manners.no_repeat_ngram:
        rules.append(NoRepeat(manners.no_repeat_ngram))
    if manners.repetition_penalty:
        rules.append(Repetition(manners.repetition_penalty))
    named = False
    made: dict[tuple[str, ...], Automaton] = {}
    if any(wish.must_not for wish in wishes):
        for wish in wishes:
            if wish.must_not and wish.must_not not in made:
                made[wish.must_not] = _banned(spelling, wish.must_not)
        rules.append(Banned([made.get(wish.must_not) for wish in wishes]))
    if any(wish.prefix for wish in wishes):
        beginnings = [Beginning.of(spelling, wish.prefix) if wish.prefix else None for wish in wishes]
        named = any(one is not None and one.names_unknown for one in beginnings)
        rules.append(Begins(spelling, beginnings))
    if any(wish.must for wish in wishes):
        demands = [_demand(spelling, wish.must) if wish.must else None for wish in wishes]
        rules.append(Required(demands, alone=alone, size=manners.no_repeat_ngram))
        ways = [way for demand in demands if demand for phrase in demand.phrases for way in phrase.ways]
        named = named or any(token == UNK for way in ways for token, _ in way)
    known = [number for number, wish in enumerate(wishes) if replaced and wish != Wish()]
    return RuleBook(rules, known=known, named=named) if rules else None


def _spellings(spelling: Spelling, phrase: str) -> set[bytes]:
    """All ways to write a phrase in bytes: composed or not, and ▁ as the tokenizer writes it or as it is."""
    forms = {phrase, unicodedata.normalize("NFC", phrase), unicodedata.normalize("NFD", phrase)}
    forms |= {form.replace(SPACE_MARK, STAND_IN) for form in forms}
    return {form.encode("utf-8") for form in forms}


@functools.lru_cache(maxsize=16)
def _banned(spelling: Spelling, phrases: tuple[str, ...]) -> Automaton:
    return Automaton(spelling, [(spelled, 0) for phrase in phrases for spelled in sorted(_spellings(spelling, phrase))])


@functools.lru_cache(maxsize=16)
def _demand(spelling: Spelling, must: tuple[tuple[str, int], ...]) -> Demand:
    ways = [_ways(spelling, phrase) for phrase, _ in must]
    raw = [
        (b"".join(s for _, s in spelling.tokenizer.parts(phrase, inside=True)), n) for n, (phrase, _) in enumerate(must)
    ]
    automaton = Automaton(spelling, raw, whole=[True] * len(raw))
    return Demand(automaton, tuple(Phrase(way, count) for way, (_, count) in zip(ways, must, strict=True)))


def _ways(spelling: Spelling, phrase: str) -> tuple[Way, ...]:
    """The tokenizer's cuts of a phrase: at the beginning of a text, right behind other text, behind a space."""
    parts = spelling.tokenizer.parts
    cuts = (parts(phrase), parts(phrase, inside=True), parts(" " + phrase, inside=True))
    return tuple(dict.fromkeys(tuple(cut) for cut in cuts))
