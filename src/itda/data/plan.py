"""The plan: which pairs make which update. Its order is a pure function of (seed, epoch), so a resume is a number."""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import isqrt
from typing import Any

import numpy as np
import numpy.typing as npt

from itda.data.order import WINDOW, Numbers, mixed, shuffled, windows
from itda.data.store import Store
from itda.errors import UserError
from itda.text.tokenizer import TokenizerPair

Ids = list[int]
Lengths = npt.NDArray[np.int32]
SAMPLED = 32768  # pairs that are sampled together: what the first update of an epoch waits for
Sampler = Callable[[int, random.Random], tuple[Ids, Ids]]  # a pair number -> sampled source and target ids


@dataclass(frozen=True)
class Update:
    """The micro-batches of one optimizer update: pair numbers, and their sampled ids where sampling is on.

    `num_targets` counts target positions with eos, the divisor of the loss; `positions` counts padded positions of
    both sides (each with its eos), `tokens` the real ones among them.
    """

    micro: tuple[tuple[int, ...], ...]
    num_targets: int
    positions: int
    tokens: int
    sampled: tuple[tuple[tuple[Ids, Ids], ...], ...] | None = None

    def sides(self, store: Store) -> Iterator[tuple[list[Ids], list[Ids], tuple[int, ...]]]:
        """Yield sources, targets and pair numbers of each micro-batch: what `token_batch` takes."""
        for place, numbers in enumerate(self.micro):
            if self.sampled is None:
                yield (*store.encoded(numbers), numbers)
            else:
                yield [src for src, _ in self.sampled[place]], [tgt for _, tgt in self.sampled[place]], numbers


@dataclass(frozen=True)
class _Micro:
    """Rows of a window that make a batch, with the ids of the window where they were sampled."""

    numbers: Numbers
    lengths: Lengths
    sampled: tuple[tuple[Ids, Ids], ...] | None


@dataclass(frozen=True)
class Plan:
    """Batches of similar length, drawn from shuffled windows of a corpus; every pair is in one batch of an epoch.

    `batch` is a number of sentences, or a budget of padded tokens: max(src, tgt) + 1 times sentences. A pair over
    the budget is a batch of its own.
    """

    lengths: Lengths
    batch: int
    batch_unit: str = "sentences"
    accumulate: int = 1
    seed: int = 1
    sampler: Sampler | None = None
    window: int = WINDOW
    release: Callable[[], None] | None = None  # gives memory back after a window

    def __post_init__(self) -> None:
        """Refuse what no plan can be made of."""
        if self.batch < 1 or self.accumulate < 1 or self.window < 1:
            raise UserError(
                f"train.batch is {self.batch} and train.accumulate {self.accumulate}; both must be 1 or more."
            )
        if self.batch_unit not in ("sentences", "tokens"):
            raise UserError(f"train.batch_unit is {self.batch_unit}; it must be sentences or tokens.")
        if not len(self.lengths):
            raise UserError("there is no pair to train on; name a corpus with at least one pair.")

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Update]:
        """Yield the updates of an epoch from update `start` on.

        What is skipped is not read or encoded, but for one case: a token budget with sampling, where only the
        sampled lengths say how many batches the pairs make.
        """
        if self._only is not None:
            yield from [self._only][start:]
            return
        held: list[_Micro] = []
        for micro in self._micros(epoch, start * self.accumulate):
            held.append(micro)
            if len(held) == self.accumulate:
                yield _update(held)
                held = []
        if held:
            yield _update(held)

    @functools.cached_property
    def _only(self) -> Update | None:
        """The update of every epoch, where one batch has all pairs: their order in it would change nothing."""
        if self.sampler or self.batch_unit != "sentences" or len(self.lengths) > min(self.batch, self.window):
            return None
        lengths = np.asarray(self.lengths)
        (rows,) = self._batches(lengths)
        return _update([_Micro(rows, lengths[rows], None)])

    def updates_per_epoch(self, epoch: int = 0) -> int:
        """Count the updates of an epoch (from the unsampled lengths where a token budget meets sampling)."""
        one_pool = self.batch_unit == "sentences" and len(self.lengths) <= self._pool
        batches = self._count(self.lengths) if one_pool else sum(map(self._count, self._pools(epoch)))
        return -(-batches // self.accumulate)

    def padding(self, epoch: int = 0) -> float:
        """Compute the share of padded positions of an epoch, both sides together, from the unsampled lengths."""
        positions = tokens = 0
        for numbers in self._pools(epoch):
            lengths = np.asarray(self.lengths[numbers])
            for rows in self._batches(lengths):
                positions, tokens = positions + _positions(lengths[rows]), tokens + _tokens(lengths[rows])
        return 1 - tokens / positions

    @property
    def _pool(self) -> int:
        """How many pairs batches are formed among at most: fewer where they must first be sampled."""
        return self.window if self.sampler is None else min(self.window, SAMPLED)

    def _pools(self, epoch: int) -> Iterator[Numbers]:
        """Yield the pair numbers among which batches are formed."""
        for numbers in windows(len(self.lengths), self.seed, epoch, self.window):
            for start in range(0, len(numbers), self._pool):
                yield numbers[start : start + self._pool]
            if self.release:
                self.release()

    def _count(self, numbers: npt.NDArray[np.integer[Any]]) -> int:
        if self.batch_unit == "sentences":
            return -(-len(numbers) // self.batch)
        return len(self._batches(np.asarray(self.lengths[numbers])))

    def _micros(self, epoch: int, skip: int) -> Iterator[_Micro]:
        for place, numbers in enumerate(self._pools(epoch)):
            if skip and (self.sampler is None or self.batch_unit == "sentences"):
                count = self._count(numbers)
                if skip >= count:
                    skip -= count
                    continue
            lengths, ids = self._measured(epoch, numbers)
            batches = self._batches(lengths)
            order = shuffled(self.seed, epoch, 3 + place, np.arange(len(batches), dtype=np.int64))
            for chosen in order[skip:].tolist():
                rows = batches[chosen]
                sampled = tuple(ids[row] for row in rows.tolist()) if ids is not None else None
                yield _Micro(numbers[rows], lengths[rows], sampled)
            skip = max(0, skip - len(batches))

    def _measured(self, epoch: int, numbers: Numbers) -> tuple[Lengths, list[tuple[Ids, Ids]] | None]:
        """Give the lengths of a window; with sampling, draw its ids first, each pair from a generator of its own."""
        if self.sampler is None:
            return np.asarray(self.lengths[numbers]), None
        seeds = mixed(self.seed, epoch, 0, numbers).tolist()
        ids = [self.sampler(number, random.Random(seed)) for number, seed in zip(numbers.tolist(), seeds, strict=True)]
        return np.array([(len(src), len(tgt)) for src, tgt in ids], dtype=np.int32), ids

    def _batches(self, lengths: Lengths) -> list[Numbers]:
        return length_batches(lengths, self.batch, self.batch_unit)


def length_batches(lengths: Lengths, batch: int, batch_unit: str) -> list[Numbers]:
    """Cut rows, sorted by length (ties stay as they come), into batches of so many sentences or padded tokens.

    A number of sentences: by target into strips, about as many as a strip has batches, each strip by source, up and
    down in turn. A budget: by the longer side, which is what it counts. Sorting further would pad a little less, but
    leave so few ties that the same pairs met in every epoch.
    """
    src, tgt = lengths[:, 0], lengths[:, 1]
    if batch_unit == "sentences" and len(lengths) <= batch:
        return [np.lexsort((tgt, src)).astype(np.int64)]  # what comes out below, where one batch has all
    if batch_unit == "sentences":
        order = np.argsort(tgt, kind="stable")
        strip = np.arange(len(order)) // (batch * max(1, isqrt(len(order) // batch)))
        order = order[np.lexsort((np.where(strip % 2, -src[order], src[order]), strip))]  # the last key counts most
        cuts = list(range(batch, len(order), batch))
    else:
        longest = lengths.max(axis=1).astype(np.int64) + 1
        order = np.lexsort((tgt, longest))
        cuts, first = [], 0
        for place, width in enumerate(longest[order].tolist()):  # ascending, so the newest row is the widest
            if place > first and width * (place - first + 1) > batch:
                cuts.append(place)
                first = place
    return np.split(order.astype(np.int64), cuts)


def evaluation_batches(
    lengths: Lengths, batch: int, batch_unit: str, window: int = WINDOW
) -> Iterator[tuple[int, ...]]:
    """Yield batches of pair numbers of similar length that cover all pairs once, without shuffling."""
    for start in range(0, len(lengths), window):
        for rows in length_batches(np.asarray(lengths[start : start + window]), batch, batch_unit):
            yield tuple((rows + start).tolist())


def subword_sampler(store: Store, tokenizers: TokenizerPair) -> Sampler | None:
    """Make the sampler of a store, or None where both tokenizers are deterministic."""
    if tokenizers.src.deterministic and tokenizers.tgt.deterministic:
        return None

    def sample(number: int, random: random.Random) -> tuple[Ids, Ids]:
        src = tokenizers.src.sample(store.src_text(number), random)
        return src, tokenizers.tgt.sample(store.tgt_text(number), random)

    return sample


def plan_for(store: Store, tokenizers: TokenizerPair, batch: int, batch_unit: str, accumulate: int, seed: int) -> Plan:
    """Plan the training on a store, with subword sampling where its tokenizers have it."""
    sampler = subword_sampler(store, tokenizers)
    return Plan(store.lengths(), batch, batch_unit, accumulate, seed, sampler, release=store.release)


def _update(micros: Sequence[_Micro]) -> Update:
    lengths = [micro.lengths for micro in micros]
    return Update(
        micro=tuple(tuple(micro.numbers.tolist()) for micro in micros),
        num_targets=sum(int(part[:, 1].sum()) + len(part) for part in lengths),
        positions=sum(map(_positions, lengths)),
        tokens=sum(map(_tokens, lengths)),
        sampled=tuple(micro.sampled or () for micro in micros) if micros[0].sampled is not None else None,
    )


def _positions(lengths: Lengths) -> int:
    return int((lengths.max(axis=0).astype(np.int64) + 1).sum()) * len(lengths)


def _tokens(lengths: Lengths) -> int:
    return int(lengths.sum(dtype=np.int64)) + 2 * len(lengths)
