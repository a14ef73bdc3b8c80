"""The contracts that everything hangs on: Encoder, Decoder, Head, and the values that pass between them.

Modules hold parameters; `Memory` and `State` are frozen values, passed in and returned. Dimension names:
sentences (what was encoded), rows (sentence x beam), src and tgt (positions), dim, vocab.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from itda.batch import Batch, Side
from itda.nn.screen import Screen

Tree = Any  # a tensor, None, or a tuple of trees
Affine = tuple[Float[Tensor, "out dim"], Float[Tensor, " out"]]  # W and b


def tree_map(function: Callable[[Tensor], Tensor], tree: Tree) -> Tree:
    """Apply `function` to each tensor of a tree of tuples, keeping its form."""
    if isinstance(tree, Tensor):
        return function(tree)
    if tree is None:
        return None
    if isinstance(tree, tuple):
        return tuple(tree_map(function, leaf) for leaf in tree)
    raise TypeError(f"a state holds tensors, tuples and None, not {type(tree).__name__}")


@dataclass(frozen=True)
class Memory:
    """What an encoder says of its sentences: a vector h_i for each position, and a summary of the whole.

    `summary` is a tree of tensors with sentences on dim 0: for a recurrent encoder, a tuple with one entry a
    layer, each a tuple (hidden,) or (hidden, cell) of shape (sentences, dim); for others ((mean,),).
    """

    states: Float[Tensor, "sentences src dim"]
    mask: Bool[Tensor, "sentences src"]
    summary: Tree = None

    def select(self, sentences: Int[Tensor, " kept"]) -> Memory:
        """Keep some sentences."""
        return Memory(self.states[sentences], self.mask[sentences], tree_map(lambda t: t[sentences], self.summary))


def mean_state(states: Float[Tensor, "sentences src dim"], mask: Tensor) -> Float[Tensor, "sentences dim"]:
    """The mean over real positions, of states that are 0 elsewhere: what a recurrent decoder's bridge reads."""
    return states.sum(1) / mask.sum(1, keepdim=True).clamp(min=1)


@dataclass(frozen=True)
class State:
    """Where a decoder stands: the memory, what was derived from it once a sentence, and what each row carries.

    Row r belongs to sentence r // width, so nothing of the memory is copied for each beam. `keys` has sentences
    on dim 0 and is never reordered; `cache` has rows on dim 0, and so have `masks`, the dropout masks that stay the
    same for a whole sentence (variational dropout, in training only).
    """

    memory: Memory
    keys: Tree
    cache: Tree
    width: int = 1
    masks: Tree = None

    def reorder(self, rows: Int[Tensor, " rows"]) -> State:
        """Let row i go on from what row `rows[i]` was; a row may only come from its own sentence."""
        cache, masks = tree_map(lambda t: t[rows], (self.cache, self.masks))
        return replace(self, cache=cache, masks=masks)

    def select(self, sentences: Int[Tensor, " kept"]) -> State:
        """Keep some sentences and all of their rows."""
        rows = (sentences[:, None] * self.width + torch.arange(self.width, device=sentences.device)).flatten()
        keys = tree_map(lambda t: t[sentences], self.keys)
        cache, masks = tree_map(lambda t: t[rows], (self.cache, self.masks))
        return State(self.memory.select(sentences), keys, cache, self.width, masks)

    def widen(self, width: int) -> State:
        """Give each sentence `width` rows, copies of its single row."""
        assert self.width == 1, "only a state with one row a sentence can be widened"
        cache, masks = tree_map(lambda t: t.repeat_interleave(width, dim=0), (self.cache, self.masks))
        return replace(self, cache=cache, width=width, masks=masks)


@dataclass(frozen=True)
class Decoded:
    """A decoder's answer for each target position: features for the head, and on request alpha and c_t."""

    features: Float[Tensor, "rows tgt dim"]
    weights: Float[Tensor, "rows tgt src"] | None = None
    contexts: Float[Tensor, "rows tgt context"] | None = None


@dataclass(frozen=True)
class Sums:
    """Sums over the real target positions of a batch; dividing is the caller's business.

    `nll` is the negative log-likelihood in nats (squared error for vectors), `objective` what training
    minimises (with label smoothing), `count` the number of positions. `parts` names what an objective adds to the
    likelihood, without its weight, for those who watch.
    """

    nll: Float[Tensor, ""]
    objective: Float[Tensor, ""]
    count: Int[Tensor, ""]
    parts: Mapping[str, Float[Tensor, ""]] = field(default_factory=dict)


class Encoder(nn.Module, ABC):
    """Reads a source side into a `Memory` whose states have `dim` features."""

    dim: int

    @abstractmethod
    def forward(self, src: Side) -> Memory:
        """Encode; no state may depend on what lies under a False mask."""


class Decoder(nn.Module, ABC):
    """Turns what was written so far, and a memory, into features of `dim` numbers for the next position."""

    dim: int

    @abstractmethod
    def start(self, memory: Memory) -> State:
        """The state before the first position, one row a sentence."""

    @abstractmethod
    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """Teacher forcing: position t sees tgt_in up to and including t, never what follows."""

    @abstractmethod
    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """Advance one position: `previous` is (rows,) ids or (rows, dim) vectors; the answer has tgt = 1.

        The given state is left as it was, so that two steps from one state give two independent futures.
        The answer always carries `weights` and `contexts` if the decoder has attention.
        """

    def rollout_error(
        self, tgt_in: Side, memory: Memory, shown: Bool[Tensor, "rows tgt"], output: Affine, tgt_out: Side
    ) -> Float[Tensor, ""] | None:
        """The squared error of scheduled sampling by a quicker way than `step`; None where the decoder has none.

        `output` are W and b of a head that predicts W x + b of the features x. Where `shown` (on the CPU) is False,
        position t is fed what the head says at t - 1. The error is averaged over the numbers of a vector.
        """
        return None

    def engine(self) -> Engine:
        """Lay out what searches need, for as long as the weights stay as they are: the fast twin of `step`."""
        return PureEngine(self)


class Walk(ABC):
    """A decoder under way in one search, which owns the state: a step may write over what was there before.

    The rows are those of a `State`: row r belongs to sentence r // width. An answer's features are good until the
    next step, its `weights` for good; they and `contexts` are there where they were asked for at the start.
    """

    memory: Memory
    width: int = 1

    @abstractmethod
    def step(self, previous: Tensor) -> Decoded:
        """Advance one position, as `Decoder.step` does."""

    @abstractmethod
    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i go on from what row `rows[i]` was; a row may only come from its own sentence."""

    @abstractmethod
    def select(self, sentences: Int[Tensor, " kept"]) -> None:
        """Keep some sentences and all of their rows."""

    @abstractmethod
    def widen(self, width: int) -> None:
        """Give each sentence `width` rows, copies of its single row."""


class Engine(ABC):
    """A decoder as searches drive it; one engine serves many, one after the other or at the same time."""

    @abstractmethod
    def start(self, memory: Memory, *, weights: bool) -> Walk:
        """Stand before the first position, one row a sentence; `weights`: whether answers carry the attention."""


class PureEngine(Engine):
    """The engine that every decoder has: `start` and `step` of the decoder itself."""

    def __init__(self, decoder: Decoder) -> None:
        self.decoder = decoder

    def start(self, memory: Memory, *, weights: bool) -> PureWalk:
        """Begin with the decoder's first state; the answers carry the attention in any case."""
        return PureWalk(self.decoder, self.decoder.start(memory))


class PureWalk(Walk):
    """A walk from one frozen state to the next."""

    def __init__(self, decoder: Decoder, state: State) -> None:
        self.decoder, self.state = decoder, state

    @property
    def memory(self) -> Memory:  # type: ignore[override]
        """The memory of the sentences that are left."""
        return self.state.memory

    @property
    def width(self) -> int:  # type: ignore[override]
        """Rows of each sentence."""
        return self.state.width

    def step(self, previous: Tensor) -> Decoded:
        """Advance one position."""
        decoded, self.state = self.decoder.step(previous, self.state)
        return decoded

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i go on from what row `rows[i]` was."""
        self.state = self.state.reorder(rows)

    def select(self, sentences: Int[Tensor, " kept"]) -> None:
        """Keep some sentences and all of their rows."""
        self.state = self.state.select(sentences)

    def widen(self, width: int) -> None:
        """Give each sentence `width` rows."""
        self.state = self.state.widen(width)


class Head(nn.Module, ABC):
    """Turns features into a distribution over targets: the loss for training, log-probabilities for search."""

    @abstractmethod
    def loss(self, decoded: Decoded, target: Side, memory: Memory) -> Sums:
        """Sum nll and objective over real target positions."""

    @abstractmethod
    def scores(
        self, decoded: Decoded, target: Side, memory: Memory
    ) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
        """The nll of each target position (0 on padding), and whether the target was the first choice there."""

    @abstractmethod
    def predict(self, decoded: Decoded, memory: Memory) -> Tensor:
        """The best next value: (rows, tgt) ids, or (rows, tgt, dim) vectors (differentiable)."""

    def rollout_loss(
        self, decoder: Decoder, batch: Batch, memory: Memory, shown: Bool[Tensor, "rows tgt"]
    ) -> Sums | None:
        """The loss of scheduled sampling by a quicker way than step by step; None where there is none.

        Where `shown` (on the CPU) is False, position t is fed what this head says at t - 1.
        """
        return None

    def log_probs(
        self, decoded: Decoded, memory: Memory, candidates: Int[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, "rows tgt vocab"]:
        """Normalised log-probabilities, over `candidates` only where they are given; only for discrete heads."""
        raise NotImplementedError(f"{type(self).__name__} has no discrete distribution")

    def factors(self, decoded: Decoded, words: Int[Tensor, "rows tgt"]) -> list[Float[Tensor, "rows tgt values"]]:
        """For each target factor the log-probabilities of its values, given the word at each position."""
        return []

    def token_nll(self, decoded: Decoded, target: Side, memory: Memory) -> Float[Tensor, "rows tgt"]:
        """The nll of each target position (0 on padding), with gradients; only for discrete heads."""
        raise NotImplementedError(f"{type(self).__name__} has no discrete distribution")

    def paired_loss(self, first: Decoded, second: Decoded, target: Side, strength: float) -> Sums:
        """The mean loss of two passes, and what keeps them together (R-Drop); only for discrete heads."""
        raise NotImplementedError(f"{type(self).__name__} has no discrete distribution")

    def narrow(self, shared: Int[Tensor, " shared"]) -> Narrowing:
        """Prepare for searches that know a few words: those that all sentences share, then each sentence's own.

        Where a sentence has fewer words than others, the rest is PAD, which is never written.
        """
        return lambda own: Gathered(self, torch.cat([shared.expand(len(own), -1), own], dim=1))

    def screen(self) -> Screen | None:
        """Give a quick look at all words with a bound on its error; None where there is none for this head."""
        return None


class Narrow(ABC):
    """A head over a few words of each sentence: what a vocabulary shortlist makes of a head, for one search."""

    @abstractmethod
    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows tgt candidates"]:
        """Log-probabilities of the words of each sentence, nearly as they are among all words."""

    @abstractmethod
    def select(self, sentences: Int[Tensor, " kept"]) -> Narrow:
        """Keep some sentences."""


Narrowing = Callable[[Int[Tensor, "sentences own"]], Narrow]
"""What gives a head over a few words, once the own words of the sentences in a batch are known."""


@dataclass(frozen=True)
class Gathered(Narrow):
    """Scores all words and keeps a few: right for every head, and the slow twin of those that score fewer."""

    head: Head
    candidates: Int[Tensor, "sentences candidates"]

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows tgt candidates"]:
        """Score all."""
        whole = self.head.log_probs(decoded, memory)
        rows = self.candidates.repeat_interleave(len(whole) // len(self.candidates), dim=0)  # rows candidates
        return whole.gather(2, rows[:, None].expand(-1, whole.shape[1], -1))

    def select(self, sentences: Int[Tensor, " kept"]) -> Gathered:
        """Keep some sentences."""
        return Gathered(self.head, self.candidates[sentences])
