"""An ensemble: several models that choose each token together, as one encoder, one decoder and one head.

The contracts are all that is used, so members may differ in everything but their vocabulary, and no search knows that
it drives more than one. Values that pass between the parts hold those of the members side by side.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from itda.batch import Side, Tokens
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import (
    Decoded,
    Decoder,
    Encoder,
    Engine,
    Head,
    Memory,
    Narrow,
    Narrowing,
    State,
    Sums,
    Walk,
)

AVERAGES = ("probabilities", "log-probabilities")


@dataclass(frozen=True)
class EnsembleMemory(Memory):
    """The memories of all members; `states` and `mask` are those of the first."""

    parts: tuple[Memory, ...] = ()

    def select(self, sentences: Int[Tensor, " kept"]) -> EnsembleMemory:
        """Keep some sentences."""
        return bundle_memories([part.select(sentences) for part in self.parts])


def bundle_memories(parts: Sequence[Memory]) -> EnsembleMemory:
    """Put the memories of the members side by side."""
    return EnsembleMemory(parts[0].states, parts[0].mask, None, tuple(parts))


@dataclass(frozen=True)
class EnsembleState(State):
    """The states of all members; they have equal rows."""

    parts: tuple[State, ...] = ()

    def reorder(self, rows: Int[Tensor, " rows"]) -> EnsembleState:
        """Let row i go on from what row `rows[i]` was."""
        return bundle_states(self.memory, [part.reorder(rows) for part in self.parts])

    def select(self, sentences: Int[Tensor, " kept"]) -> EnsembleState:
        """Keep some sentences and all of their rows."""
        return bundle_states(self.memory.select(sentences), [part.select(sentences) for part in self.parts])

    def widen(self, width: int) -> EnsembleState:
        """Give each sentence `width` rows, copies of its single row."""
        return bundle_states(self.memory, [part.widen(width) for part in self.parts])


def bundle_states(memory: Memory, parts: Sequence[State]) -> EnsembleState:
    """Put the states of the members side by side."""
    return EnsembleState(memory, None, None, parts[0].width, None, tuple(parts))


@dataclass(frozen=True)
class EnsembleDecoded(Decoded):
    """The answers of all members; `weights` are the mean over those that have attention."""

    parts: tuple[Decoded, ...] = ()


def bundle_decoded(parts: Sequence[Decoded]) -> EnsembleDecoded:
    """Put the answers of the members side by side."""
    weights = [part.weights for part in parts if part.weights is not None]
    mean = torch.stack(weights).mean(dim=0) if weights else None
    return EnsembleDecoded(parts[0].features, mean, None, tuple(parts))


class EnsembleEncoder(Encoder):
    """Lets each member read the source."""

    def __init__(self, encoders: Sequence[Encoder]) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(encoders)
        self.dim = encoders[0].dim

    def forward(self, src: Side) -> EnsembleMemory:
        """Encode with each member."""
        return bundle_memories([encoder(src) for encoder in self.encoders])


class EnsembleDecoder(Decoder):
    """Lets each member take a step."""

    def __init__(self, decoders: Sequence[Decoder]) -> None:
        super().__init__()
        self.decoders = nn.ModuleList(decoders)
        self.dim = decoders[0].dim

    def start(self, memory: Memory) -> EnsembleState:
        """The states before the first position."""
        assert isinstance(memory, EnsembleMemory), "an ensemble's decoder reads what its encoder made"
        members = zip(self.decoders, memory.parts, strict=True)
        return bundle_states(memory, [decoder.start(part) for decoder, part in members])  # type: ignore[operator]

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> EnsembleDecoded:
        """Teacher forcing, for each member."""
        assert isinstance(memory, EnsembleMemory), "an ensemble's decoder reads what its encoder made"
        members = zip(self.decoders, memory.parts, strict=True)
        return bundle_decoded([decoder(tgt_in, part, weights=weights) for decoder, part in members])

    def step(self, previous: Tensor, state: State) -> tuple[EnsembleDecoded, EnsembleState]:
        """Advance each member by the same token."""
        assert isinstance(state, EnsembleState), "an ensemble's decoder goes on from its own state"
        members = zip(self.decoders, state.parts, strict=True)
        answers = [decoder.step(previous, part) for decoder, part in members]  # type: ignore[operator]
        return bundle_decoded([one for one, _ in answers]), bundle_states(state.memory, [after for _, after in answers])

    def engine(self) -> Engine:
        """The engines of all members, side by side."""
        return EnsembleEngine([decoder.engine() for decoder in self.decoders])  # type: ignore[operator]


class EnsembleEngine(Engine):
    """Lets the engine of each member begin."""

    def __init__(self, engines: Sequence[Engine]) -> None:
        self.engines = tuple(engines)

    def start(self, memory: Memory, *, weights: bool) -> EnsembleWalk:
        """The walks of all members, each in its own memory."""
        assert isinstance(memory, EnsembleMemory), "an ensemble's decoder reads what its encoder made"
        members = zip(self.engines, memory.parts, strict=True)
        return EnsembleWalk([engine.start(part, weights=weights) for engine, part in members])


class EnsembleWalk(Walk):
    """The walks of all members; they have equal rows."""

    def __init__(self, parts: Sequence[Walk]) -> None:
        self.parts, self.memory = tuple(parts), bundle_memories([part.memory for part in parts])

    def step(self, previous: Tensor) -> EnsembleDecoded:
        """Advance each member by the same token."""
        return bundle_decoded([part.step(previous) for part in self.parts])

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i go on from what row `rows[i]` was."""
        for part in self.parts:
            part.reorder(rows)

    def select(self, sentences: Int[Tensor, " kept"]) -> None:
        """Keep some sentences and all of their rows."""
        for part in self.parts:
            part.select(sentences)
        self.memory = bundle_memories([part.memory for part in self.parts])

    def widen(self, width: int) -> None:
        """Give each sentence `width` rows."""
        self.width = width
        for part in self.parts:
            part.widen(width)


class EnsembleHead(Head):
    """Averages the members' probabilities (arithmetic mean), or their log-probabilities (geometric, renormalised)."""

    def __init__(self, heads: Sequence[Head], average: str = "probabilities") -> None:
        super().__init__()
        assert average in AVERAGES, average
        self.heads, self.average = nn.ModuleList(heads), average

    def log_probs(
        self, decoded: Decoded, memory: Memory, candidates: Int[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, "rows tgt vocab"]:
        """The log-probabilities that the members agree on."""
        assert isinstance(decoded, EnsembleDecoded), "an ensemble's head reads what its decoder made"
        assert isinstance(memory, EnsembleMemory), "an ensemble's head reads what its encoder made"
        members = zip(self.heads, decoded.parts, memory.parts, strict=True)
        each = torch.stack([head.log_probs(one, part, candidates) for head, one, part in members])  # type: ignore[operator]
        return self.agreed(each)

    def narrow(self, shared: Int[Tensor, " shared"]) -> Narrowing:
        """Narrow each member to the same words."""
        each = [head.narrow(shared) for head in self.heads]  # type: ignore[operator]
        return lambda own: EnsembleNarrow(self, tuple(narrowing(own) for narrowing in each))

    def agreed(self, each: Float[Tensor, "members rows tgt words"]) -> Float[Tensor, "rows tgt words"]:
        """Average the log-probabilities of the members."""
        if self.average == "probabilities":
            return each.logsumexp(dim=0) - math.log(len(each))
        return each.mean(dim=0).log_softmax(dim=-1)

    def factors(self, decoded: Decoded, words: Int[Tensor, "rows tgt"]) -> list[Float[Tensor, "rows tgt values"]]:
        """The mean of the members' log-probabilities of each factor."""
        assert isinstance(decoded, EnsembleDecoded), "an ensemble's head reads what its decoder made"
        each = [head.factors(one, words) for head, one in zip(self.heads, decoded.parts, strict=True)]  # type: ignore[operator]
        return [torch.stack(members).mean(dim=0) for members in zip(*each, strict=True)]

    @torch.no_grad()
    def scores(
        self, decoded: Decoded, target: Side, memory: Memory
    ) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
        """The nll of each target token and whether it was the most probable one; 0 and False on padding."""
        assert isinstance(target, Tokens), "an ensemble writes tokens"
        log_probs = self.log_probs(decoded, memory)
        nll = -log_probs.gather(2, target.ids[:, :, None]).squeeze(2)
        return nll.masked_fill(~target.mask, 0.0), (log_probs.argmax(dim=2) == target.ids) & target.mask

    def loss(self, decoded: Decoded, target: Side, memory: Memory) -> Sums:
        """Sum the nll over real positions; an ensemble is not trained."""
        nll = self.scores(decoded, target, memory)[0].sum()
        return Sums(nll, nll, target.mask.sum())

    def predict(self, decoded: Decoded, memory: Memory) -> Int[Tensor, "rows tgt"]:
        """The most probable token."""
        return self.log_probs(decoded, memory).argmax(dim=-1)


@dataclass(frozen=True)
class EnsembleNarrow(Narrow):
    """The members' heads, narrowed to the same words."""

    head: EnsembleHead
    parts: tuple[Narrow, ...]

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows tgt candidates"]:
        """The log-probabilities that the members agree on; where they average these, normalised over the few words."""
        assert isinstance(decoded, EnsembleDecoded), "an ensemble's head reads what its decoder made"
        assert isinstance(memory, EnsembleMemory), "an ensemble's head reads what its encoder made"
        members = zip(self.parts, decoded.parts, memory.parts, strict=True)
        return self.head.agreed(torch.stack([part.log_probs(one, own) for part, one, own in members]))

    def select(self, sentences: Int[Tensor, " kept"]) -> EnsembleNarrow:
        """Keep some sentences."""
        return EnsembleNarrow(self.head, tuple(part.select(sentences) for part in self.parts))


def join(models: Sequence[EncoderDecoder], average: str = "probabilities") -> EncoderDecoder:
    """Make one model of several; they must share source and target vocabulary."""
    return EncoderDecoder(
        EnsembleEncoder([model.encoder for model in models]),
        EnsembleDecoder([model.decoder for model in models]),
        EnsembleHead([model.head for model in models], average),
    )
