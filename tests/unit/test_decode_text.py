"""Phrases in text, whatever the tokens: the automaton against a search in the decoded text, prefixes, wishes."""

import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from itda.batch import UNK
from itda.config import TokenizerConfig
from itda.decode.automaton import Automaton, Spelling, inside_word
from itda.decode.constraints import Beginning, Begins
from itda.decode.terminology import Terminology, placeholder_pattern, placeholders_of
from itda.decode.wishes import Manners, Wish, _banned, _demand, make_wish
from itda.errors import UserError
from itda.text.tokenizer import Tokenizer, train_tokenizers

LINES = [
    "the cat sat on the mat, and the concatenation of cats sat too",
    "서울에서 부산까지 기차로 갔다",
    "東京は大きい。京都も",
    "a b▁c (cat) cat-cat 'cat'",
    "é cafe\u0301 café",
]
UNITS = {
    "bpe": TokenizerConfig(kind="sentencepiece", vocab_size=420),
    "unigram": TokenizerConfig(kind="sentencepiece", model="unigram", vocab_size=380),
    "characters": TokenizerConfig(kind="characters", vocab_size=300),
    "words": TokenizerConfig(kind="words", vocab_size=300),
}
PHRASES = ["cat", "the cat", "at", "서울", "에서", "京", "東京は", "a b", "é", "cafe\u0301", "b▁c", "t, and", " sat"]


@pytest.fixture(scope="module", params=UNITS)
def spelling(request: pytest.FixtureRequest) -> Spelling:
    pairs = train_tokenizers(UNITS[request.param], lambda: iter([(line, line) for line in LINES]), 1)
    return Spelling(pairs.tgt)


def texts_of(tokenizer: Tokenizer, count: int) -> list[tuple[list[int], str]]:
    """Random tokens, real lines, and lines whose tokens were cut into others; with what they decode to."""
    draw, found = random.Random(1), []
    for number in range(count):
        ids = [token for token, _ in tokenizer.parts(LINES[number % len(LINES)])]
        if number % 3:
            at = draw.randrange(len(ids))
            ids[at : at + draw.randrange(3)] = [
                draw.randrange(4, tokenizer.vocab_size) for _ in range(draw.randrange(4))
            ]
        if number % 4 == 0:
            ids = [draw.randrange(4, tokenizer.vocab_size) for _ in range(12)]
        found.append((ids, tokenizer.decode(ids).replace("\n", " ").replace("\r", " ")))
    return found


def test_parts_are_the_ids_of_encode_and_finish_to_the_text(spelling: Spelling) -> None:
    tokenizer = spelling.tokenizer
    for line in LINES:
        parts = tokenizer.parts(line)
        assert [token for token, _ in parts] == tokenizer.encode(line)
        assert tokenizer.finish(b"".join(spelled for _, spelled in parts)) == tokenizer.normalize(line)
    for ids, _ in texts_of(tokenizer, 60):
        assert tokenizer.finish(b"".join(tokenizer.spelling[token] for token in ids)) == tokenizer.decode(ids)


def test_what_is_banned_is_seen_exactly_where_the_text_holds_it(spelling: Spelling) -> None:
    seen = 0
    for phrase in PHRASES:
        automaton = _banned(spelling, (phrase,))
        for ids, text in texts_of(spelling.tokenizer, 80):
            node, hits = automaton.start, False
            for token in ids:
                walks = automaton.walks(node)
                hits = hits or bool(walks.hits[token])
                node = int(walks.nodes[token])
            assert hits or phrase not in text, (phrase, text)
            if "▁" not in phrase and "é" not in text and "e\u0301" not in text:
                assert hits == (phrase in text), (phrase, text)
            seen += hits
    assert seen > 20


def test_the_walks_of_all_tokens_are_those_of_each(spelling: Spelling) -> None:
    automaton = Automaton(
        spelling, [(phrase.encode(), n) for n, phrase in enumerate(PHRASES)], [n % 2 == 0 for n in range(13)]
    )
    for node in range(0, automaton.start + 1, 3):
        walks = automaton.walks(node)
        for token, spelled in enumerate(spelling.tokens):
            assert (walks.nodes[token], walks.hits[token]) == automaton.walk(node, spelled)


def whole(phrase: str, text: str) -> bool:
    """A phrase that does not begin inside a word, in ASCII text."""
    at = text.find(phrase)
    while at >= 0:
        if not at or not (inside_word(text[at - 1]) and inside_word(phrase[0])):
            return True
        at = text.find(phrase, at + 1)
    return False


def test_a_required_phrase_is_not_begun_inside_a_word(spelling: Spelling) -> None:
    told = Counter[bool]()
    for phrase in ("cat", "at", "sat", "(cat", "서울", "에서", "京"):
        automaton = _demand(spelling, ((phrase, 1),)).automaton
        for ids, text in texts_of(spelling.tokenizer, 80):
            raw = b"".join(spelling.tokens[token] for token in ids)
            hits = bool(automaton.walk(automaton.start, raw)[1])
            assert not hits or phrase in text
            if text.isascii():
                assert hits == whole(phrase, text), (phrase, text)
                told[hits] += 1
    automaton = _demand(spelling, (("에서", 1), ("京", 1))).automaton
    assert not automaton.walk(automaton.start, "서울에서".encode())[1]
    assert automaton.walk(automaton.start, "東京".encode())[1] == 2
    assert min(told.values()) > 5


def test_each_way_of_a_phrase_spells_it(spelling: Spelling) -> None:
    for phrase in ("cat", "Zoo {x}", "서울", "東京"):
        demand = _demand(spelling, ((phrase, 1),))
        for way in demand.phrases[0].ways:
            raw = b"".join(spelled for _, spelled in way)
            assert demand.automaton.walk(demand.automaton.start, raw)[1] == 1
            assert spelling.tokenizer.finish(raw).strip() == phrase


@pytest.mark.parametrize("text", ["the cat sa", "the ", " the", "c", "서울에", "東京", "zzz qqq", "the zzz", "b▁"])
def test_a_prefix_is_spelled_by_head_and_tail(spelling: Spelling, text: str) -> None:
    beginning = Beginning.of(spelling, text)
    raw = b"".join(spelled for _, spelled in beginning.head) + beginning.tail
    assert spelling.tokenizer.finish(raw) == text
    assert beginning.head or " " not in text.strip()
    unknown = [beginning.tail[start:end] for start, end in beginning.unknown]
    known = [token for token, _ in spelling.tokenizer.parts(text)].count(UNK) - [t for t, _ in beginning.head].count(
        UNK
    )
    assert len(unknown) == known


def test_terms_are_found_as_words_of_their_own() -> None:
    terms = Terminology.read({"cat": "Katze", "black cat": "Kater", "서울": "Seoul", "東京": "Tokio", "C++": "C++"})
    assert terms.wanted("a cat") == {"Katze": 1}
    assert terms.wanted("the black cat sat") == {"Kater": 1}
    assert terms.wanted("concatenate cats Cat") == {}
    assert terms.wanted("(cat), C++") == {"Katze": 1, "C++": 1}
    assert terms.wanted("서울에서 남서울") == {"Seoul": 1}
    assert terms.wanted("私は東京に") == {"Tokio": 1}


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ("cat\tKatze\nbad\n", "line 2 has 1 column"),
        ("cat\tKatze\ncat\tKater\n", "line 2 says 'Kater' for 'cat', and an earlier line 'Katze'"),
        ("cat\t \n", "line 1 has 2 column"),
    ],
)
def test_a_wrong_terminology_names_its_line(tmp_path: Path, lines: str, message: str) -> None:
    path = tmp_path / "terms.tsv"
    path.write_text(lines, encoding="utf-8")
    with pytest.raises(UserError, match=message):
        Terminology.read(path)


def test_placeholders_are_counted() -> None:
    text = "Hi {name}, %s of %(n)d, see https://x.org/a and <b>{name}</b> ${v} 100 % done"
    pattern = placeholder_pattern(True)
    assert pattern is not None
    expected = {"{name}": 2, "%s": 1, "%(n)d": 1, "https://x.org/a": 1, "<b>": 1, "</b>": 1, "${v}": 1}
    assert placeholders_of(pattern, text) == expected
    assert placeholder_pattern(None) is placeholder_pattern(False) is None
    with pytest.raises(UserError, match="no regular expression"):
        placeholder_pattern("(")


@pytest.mark.parametrize(
    ("prefix", "must", "must_not", "size", "message"),
    [
        ("the cat", [], ["e c"], 0, "prefix 'the cat' holds 'e c', which must_not forbids"),
        ("", ["the cat"], ["cat"], 0, "must asks for 'the cat', and must_not forbids 'cat'"),
        ("cat cat", [], [], 1, "prefix 'cat cat' repeats 1 token"),
        ("", ["cat cat"], [], 1, "must 'cat cat' repeats 1 token"),
        ("", ["the cat", "cat sat"], [], 1, "'the cat' and 'cat sat', which share 1 token"),
    ],
)
def test_wishes_that_contradict_each_other_are_refused(
    prefix: str, must: list[str], must_not: list[str], size: int, message: str
) -> None:
    pairs = train_tokenizers(UNITS["words"], lambda: iter([(line, line) for line in LINES]), 1)
    with pytest.raises(UserError, match=message):
        make_wish(Spelling(pairs.tgt), prefix, Counter(must), must_not, Manners(no_repeat_ngram=size))


def test_wishes_are_brought_into_the_tokenizers_form(spelling: Spelling) -> None:
    wish = make_wish(spelling, "cafe\u0301", Counter(["e\u0301"]), ["n\u0303"], Manners())
    assert wish == Wish("café", (("é", 1),), ("ñ", "n\u0303"))
    assert np.array_equal(np.sort(spelling.table[0]), np.arange(len(spelling.tokens)))


def test_the_space_before_a_text_is_no_part_of_it(spelling: Spelling) -> None:
    automaton = _banned(spelling, (" cat",))
    tokenizer = spelling.tokenizer
    for text, held in (("cat sat", False), ("the cat", True), (" cat", True)):
        raw = b"".join(spelled for _, spelled in tokenizer.parts(text))
        assert tokenizer.finish(raw) == text
        assert bool(automaton.walk(automaton.start, raw)[1]) == held, text


def test_a_line_end_that_is_written_counts_as_the_space_that_it_becomes(spelling: Spelling) -> None:
    automaton = _banned(spelling, ("t s",))
    for end in (b"\n", b"\r"):
        assert automaton.walk(automaton.start, b" cat" + end + b"sat")[1]


def test_tokens_that_go_beyond_a_prefix_may_spell_its_end(spelling: Spelling) -> None:
    kind = spelling.tokenizer.kind
    rest = b"c" if kind == "characters" else b" ca"
    allowed = {spelling.tokens[token] for token in Begins(spelling, [])._spelling_of(rest)}
    beyond = {spelled for spelled in spelling.tokens if spelled.startswith(rest)}
    assert beyond <= allowed
    assert len(beyond) > (kind == "words")
    assert all(rest.startswith(spelled) for spelled in allowed - beyond)
