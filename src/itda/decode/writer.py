"""The writer: texts in, hypotheses out, by one request; what lies between is encoded, searched and spelled here."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from itda.allocator import keep_freed_memory
from itda.batch import EOS, UNK, pad_tokens
from itda.data.lexicon import Lexicon
from itda.decode.automaton import Spelling
from itda.decode.crew import Crew, count_workers
from itda.decode.factors import add_factors
from itda.decode.history import Found
from itda.decode.hypothesis import Hypothesis
from itda.decode.packing import pack
from itda.decode.request import Request
from itda.decode.required import ChooseFromBanks, Required
from itda.decode.rules import RuleBook
from itda.decode.sampling import sample_keys
from itda.decode.search import Moment, Search
from itda.decode.stream import Watcher
from itda.decode.tree import SearchTree, grow
from itda.decode.wishes import Manners, Wish, make_rules
from itda.decode.words import LeadingWords, Shortlist, Words
from itda.errors import UserError
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Engine
from itda.nn.screen import Screen
from itda.text.tokenizer import TokenizerPair
from itda.text.wrapped import factored, folds_case, plain_text, tagged, words_of

_CASELESS = "this model searches words without their case (data.target_factors)"


@dataclass(frozen=True)
class Source:
    """A text as the model reads it, and what is wished of its output."""

    number: int
    text: str
    ids: tuple[int, ...]
    wish: Wish
    notice: str

    @property
    def blank(self) -> bool:
        """Say whether its output is blank too: nothing to read, and nothing that must be written."""
        return not self.ids and not self.wish.writes


@dataclass(frozen=True)
class Writer:
    """A model with its tokenizers, and the request by which it writes."""

    model: EncoderDecoder
    tokenizers: TokenizerPair
    max_src_length: int
    device: torch.device
    request: Request
    lexicon: Lexicon | None = None
    attention: bool = True  # whether outputs carry it

    @functools.cached_property
    def screen(self) -> Screen | None:
        """The model's quick look at all words, where its head and this machine have one."""
        return self.model.head.screen()

    @functools.cached_property
    def shortlist(self) -> Shortlist:
        """The shortlist, made ready for this model."""
        assert self.lexicon is not None, "a shortlist was asked for, and the request was let through without one"
        return Shortlist.of(self.model.head, self.lexicon.frequent, self.device)

    @functools.cached_property
    def engine(self) -> Engine:
        """The decoder, laid out for all searches of this writer."""
        with torch.inference_mode():
            return self.model.eval().decoder.engine()

    def crew(self, workers: int | None = None) -> Crew[list[Source], list[Hypothesis]]:
        """Those who write batches: so many workers, or as many as are good for speed."""
        if self.device.type == "cpu":
            keep_freed_memory()
        return Crew(self._write, count_workers(workers, self.device))

    def write(
        self,
        lines: Sequence[tuple[int, str]],
        crew: Crew[list[Source], list[Hypothesis]],
        batch_size: int | None = None,
    ) -> list[Hypothesis]:
        """Write the outputs for numbered texts, in order; those of similar length are decoded together.

        A batch is as large as is good for speed, and holds no more than `batch_size` sentences.
        """
        self._lay_out()
        sources = [self._read(number, text) for number, text in lines]
        answers = [Hypothesis("", 0.0, 0.0, (), ())] * len(lines)
        places = [place for place, source in enumerate(sources) if not source.blank]
        lengths, rows = [len(sources[place].ids) + 1 for place in places], self.request.settings.rows
        batches = list(pack(lengths, rows, workers=crew.workers, count=batch_size))
        parts = [[sources[places[one]] for one in batch] for batch in batches]
        for number, written in crew.do(parts):
            for one, hypothesis in zip(batches[number], written, strict=True):
                answers[places[one]] = hypothesis
        return answers

    @torch.inference_mode()
    def _lay_out(self) -> tuple[Engine, Shortlist | Screen | None]:
        """Make what all batches share; before anyone is hired, so that workers have it without a copy."""
        mode = self.request.decode.shortlist
        return self.engine, self.shortlist if mode == "on" else self.screen if mode == "certified" else None

    def _write(self, sources: list[Source]) -> list[Hypothesis]:
        """Write the outputs for a batch."""
        search, written = self._search(sources), list[Hypothesis]()
        for row, (source, candidates) in enumerate(zip(sources, self._factored(search, search.run()), strict=True)):
            many = tuple(self._hypotheses(source, candidates, search.rules, row))
            notice = _notice(source, candidates[0], int(search.limits[row]), self.request.manners)
            written.append(replace(many[0], n_best=many, notice=notice))
        return written

    def stream(self, text: str, number: int) -> Iterator[str]:
        """Write the output for one text, piece by piece."""
        if folds_case(self.tokenizers.tgt):
            raise UserError(f"{_CASELESS}, which only the whole output has: use generate in place of stream.")
        source = self._read(number, text)
        if source.notice:
            warnings.warn(source.notice, stacklevel=2)
        if source.blank:
            return
        search = self._search([source])
        watcher = Watcher(search.settings.scoring, *self._sure_text(search))
        moments = search.steps()
        while (piece := _next_piece(moments, watcher)) is not None:
            if piece:
                yield piece
        (candidates,) = self._factored(search, search.found())
        (last,) = self._hypotheses(source, candidates, search.rules, 0)
        if rest := watcher.end(last.text):
            yield rest

    @torch.inference_mode()
    def tree(self, text: str) -> SearchTree:
        """Search for the output of one text, and give the tree of the search."""
        if self.request.settings.sampling is not None:
            raise UserError("search_tree shows a beam, and sample draws without one: leave sample out.")
        search = self._search([self._read(1, text)])
        groups = search.settings.groups
        return grow(search.steps(), groups, groups)[0]

    def _read(self, number: int, text: str) -> Source:
        """Encode one text, and see what is wished of its output."""
        tokenizers, limit, asked = self.tokenizers, self.max_src_length, self.request.asked
        try:
            text = tagged(tokenizers.src, text, asked.language(number))
            plain = plain_text(tokenizers.src, text) if text.strip() else ""
            ids = tokenizers.src.encode(text) if plain.strip() else []
        except UserError as error:  # a text that is not annotated as this model's sources are
            raise UserError(f"line {number}: {error}") from None
        wish = asked.of(number, plain, self._spelling(), self.request.manners)
        if wish != Wish() and folds_case(tokenizers.tgt):
            raise UserError(
                f"line {number}: {_CASELESS}: leave out prefix, must, must_not, terminology and placeholders."
            )
        cut = f"line {number}: the source has {len(ids)} tokens and was cut to {limit} (data.max_src_length)"
        return Source(number, text, tuple(ids[:limit]), wish, cut if len(ids) > limit else "")

    def _factored(self, search: Search, found: list[list[Found]]) -> list[list[Found]]:
        """Add the factors to what a search found, where the model says some."""
        packed = factored(self.tokenizers.tgt)
        return found if packed is None else add_factors(self.model, search.memory, found, packed.inner.vocab_size)

    def _spelling(self) -> Spelling:
        return spelling_of(self.tokenizers)

    @torch.inference_mode()
    def _search(self, sources: Sequence[Source]) -> Search:
        """Read the sources, and prepare the search for their outputs."""
        decode, settings = self.request.decode, self.request.settings
        side = pad_tokens([[*source.ids, EOS] for source in sources]).to(self.device)
        lengths = torch.tensor([len(source.ids) for source in sources])
        limits = (lengths * decode.max_length_ratio).long() + decode.max_length_extra
        model, keys = self.model.eval(), None
        rules = make_rules(
            self._spelling(),
            [source.wish for source in sources],
            self.request.manners,
            alone=settings.width == 1,
            replaced=decode.replace_unknown,
        )
        if settings.sampling is not None:
            keys = sample_keys(settings.sampling.seed, [source.ids for source in sources], settings.n_best)
        return Search(
            model.decoder,
            model.head,
            model.encode(side),
            limits.clamp(min=decode.min_length),
            settings,
            rules=rules,
            keys=keys,
            banks=_banks(rules),
            words=self._words(sources, rules),
            weights=self.attention or decode.replace_unknown,
            engine=self.engine,
        )

    def _words(self, sources: Sequence[Source], rules: RuleBook | None) -> Words | None:
        """What each source may be written with; None: the whole vocabulary."""
        mode = self.request.decode.shortlist
        if mode == "certified" and rules is None and self.screen is not None:
            return LeadingWords(self.screen, 2 * self.request.settings.width)
        if mode != "on":
            return None
        assert self.lexicon is not None
        named: list[set[int]] = [rules.names(number) if rules else set() for number in range(len(sources))]
        own = [
            np.union1d(self.lexicon.own(source.ids), sorted(wished))
            for source, wished in zip(sources, named, strict=True)
        ]
        spread = self.tokenizers.tgt.vocab_size if rules else 0
        return self.shortlist.words(own, spread)

    def _hypotheses(
        self, source: Source, candidates: Sequence[Found], rules: RuleBook | None, row: int
    ) -> Iterator[Hypothesis]:
        surfaces = []
        if self.request.decode.replace_unknown:
            surfaces = self.tokenizers.src.surfaces(source.text)[: len(source.ids)]
        for found in candidates:
            spelled = {} if rules is None else rules.spelled(row, words_of(self.tokenizers.tgt, found.ids))
            yield self._hypothesis(found, source.ids, surfaces, spelled)

    def _sure_text(self, search: Search) -> tuple[Callable[[Sequence[int]], bytes], Callable[[bytes], str]]:
        """How the watcher of a stream turns ids into bytes, and bytes into text."""
        tokenizer, rules = self.tokenizers.tgt, search.rules
        spelling = tokenizer.spelling

        def sure_bytes(ids: Sequence[int]) -> bytes:
            spelled = {} if rules is None else rules.spelled(0, ids)
            parts = list[bytes]()
            for position, token in enumerate(ids):
                if token == UNK and self.request.decode.replace_unknown and position not in spelled:
                    break  # what will stand there is known at the end
                parts.append(spelled.get(position, spelling[token]))
            return b"".join(parts)

        return sure_bytes, lambda raw: one_line(tokenizer.finish(raw))

    def _hypothesis(
        self, found: Found, src_ids: Sequence[int], surfaces: list[str], spelled: Mapping[int, bytes]
    ) -> Hypothesis:
        tokenizers, unknown = self.tokenizers, {}
        words, packed = words_of(tokenizers.tgt, found.ids), factored(tokenizers.tgt)
        if surfaces and found.weights is not None:
            targets = [position for position, token in enumerate(words) if token == UNK]
            unknown = {
                position: surfaces[int(found.weights[position, : len(src_ids)].argmax())] for position in targets
            }
        text = tokenizers.tgt.decode(found.ids, unknown)
        if spelled:
            spelling = tokenizers.tgt.spelling
            text = tokenizers.tgt.finish(b"".join(spelled.get(p, spelling[i]) for p, i in enumerate(words)))
        return Hypothesis(
            text=one_line(text),
            score=found.score,
            log_prob=found.log_prob,
            tokens=tuple(tokenizers.tgt.pieces(found.ids)),
            src_tokens=tuple(tokenizers.src.pieces(src_ids)),
            token_log_probs=tuple(found.token_log_probs),
            attention=found.weights,
            factors={} if packed is None else packed.values(found.ids),
        )


@functools.lru_cache(maxsize=4)
def spelling_of(tokenizers: TokenizerPair) -> Spelling:
    """Lay out the bytes of the target's vocabulary, once."""
    return Spelling(tokenizers.tgt)


@torch.inference_mode()
def _next_piece(moments: Iterator[Moment], watcher: Watcher) -> str | None:
    """Search one position further; None at the end."""
    moment = next(moments, None)
    return None if moment is None else watcher.see(moment)


def _banks(rules: RuleBook | None) -> ChooseFromBanks | None:
    """The way to choose where something must be written."""
    required = None if rules is None else next((rule for rule in rules.rules if isinstance(rule, Required)), None)
    return None if rules is None or required is None else ChooseFromBanks(rules, required)


def _notice(source: Source, best: Found, limit: int, manners: Manners) -> str:
    """Say what was cut, and where nothing obeys all that was asked for."""
    if best.finished or (source.wish, manners) == (Wish(), Manners()):
        return source.notice
    wish = source.wish
    asked = [f"prefix {wish.prefix!r}"] if wish.prefix else []
    asked += [f"must {phrase!r}" for phrase, _ in wish.must] + [f"must_not {phrase!r}" for phrase in wish.must_not]
    asked += [f"{name} = {value}" for name, value in vars(manners).items() if value]
    lacking = f"line {source.number}: no output of {limit} tokens was found that obeys {', '.join(asked)}"
    return "; ".join([*([source.notice] if source.notice else []), lacking + "; the beginning of one is given"])


def one_line(text: str) -> str:
    """Keep an output on its line: a model with byte pieces can write what ends a line, though it never read one."""
    return text.replace("\r", " ").replace("\n", " ")
