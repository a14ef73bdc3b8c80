"""Transformer encoder and decoder (Vaswani et al. 2017, arXiv 1706.03762).

A layer is a few residual branches, each with a norm: before the branch (pre-norm: x + f(norm(x)), with one more norm
after the last layer) or after the sum (post-norm: norm(x + f(x)), as published). What carries the past in a decoder
layer is passed in, its `mixer`: self-attention, or anything else that can both read a whole sequence and step.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from jaxtyping import Float
from torch import Tensor, nn

from itda.batch import Side
from itda.nn.embedding import Embedder, SequenceDropout
from itda.nn.entrance import Entrance
from itda.nn.feedforward import FeedForward
from itda.nn.interface import Decoded, Decoder, Encoder, Engine, Memory, PureEngine, State, mean_state
from itda.nn.multihead import CrossAttention, KeyValues, SelfAttention, padding_bias
from itda.nn.ssru import SSRU
from itda.nn.walks.transformer import TransformerEngine

Values = Float[Tensor, "batch time dim"]
Mask = Float[Tensor, "rows dim"] | None  # of variational dropout, for a whole sentence
Mixer = SelfAttention | SSRU


def make_norm(kind: str, dim: int) -> nn.Module:
    """The norm that a name stands for: layer (Ba et al. 2016) or rms (Zhang and Sennrich 2019)."""
    return nn.LayerNorm(dim) if kind == "layer" else nn.RMSNorm(dim, eps=1e-6)


class Residual(nn.Module):
    """The frame of a branch: what it reads is `enter(x)`, and what comes of x and its answer is `leave(x, answer)`."""

    def __init__(self, norm: nn.Module, norm_first: bool, dropout: SequenceDropout) -> None:
        super().__init__()
        self.norm, self.norm_first, self.dropout = norm, norm_first, dropout

    def enter(self, values: Values) -> Values:
        """What the branch reads."""
        return self.norm(values) if self.norm_first else values

    def leave(self, values: Values, answer: Values, mask: Mask = None) -> Values:
        """The sum, with dropout on the branch's answer."""
        values = values + self.dropout(answer, mask)
        return values if self.norm_first else self.norm(values)


class EncoderLayer(nn.Module):
    """Self-attention over the whole source, then the feed-forward layer."""

    def __init__(self, attention: SelfAttention, feed_forward: FeedForward, residuals: Sequence[Residual]) -> None:
        super().__init__()
        self.attention, self.feed_forward = attention, feed_forward
        self.residuals = nn.ModuleList(residuals)

    def forward(self, values: Values, bias: Tensor) -> Values:
        """All positions; those that the bias shuts out are seen by none."""
        first, second = self.residuals
        values = first.leave(values, self.attention(first.enter(values), bias))
        return second.leave(values, self.feed_forward(second.enter(values)))


class TransformerEncoder(Encoder):
    """Reads the source with self-attention; the summary is the mean over real positions, ((mean,),)."""

    def __init__(self, embed: Embedder, entrance: Entrance, layers: Sequence[EncoderLayer], norm: nn.Module, dim: int):
        super().__init__()
        self.embed, self.entrance, self.norm, self.dim = embed, entrance, norm, dim
        self.layers = nn.ModuleList(layers)

    def forward(self, src: Side) -> Memory:
        """Encode all positions at once."""
        padding = ~src.mask[..., None]
        # A weight of 0 shuts out any number, but not a NaN, so padding is blanked before it is read.
        values = self.entrance(self.embed(src.values).masked_fill(padding, 0.0))
        bias = padding_bias(src.mask, values.dtype)
        for layer in self.layers:
            values = layer(values, bias)
        states = self.norm(values).masked_fill(padding, 0.0)
        return Memory(states, src.mask, ((mean_state(states, src.mask),),))


class DecoderLayer(nn.Module):
    """A mixer over what was written, attention to the memory, then the feed-forward layer."""

    def __init__(
        self, mixer: Mixer, cross: CrossAttention, feed_forward: FeedForward, residuals: Sequence[Residual]
    ) -> None:
        super().__init__()
        self.mixer, self.cross, self.feed_forward = mixer, cross, feed_forward
        self.residuals = nn.ModuleList(residuals)

    def forward(
        self, values: Values, keys: KeyValues, bias: Tensor, masks: Sequence[Mask], look: bool
    ) -> tuple[Values, Tensor | None]:
        """All positions, and with `look` the attention weights."""
        residual = self.residuals[0]
        values = residual.leave(values, self.mixer(residual.enter(values)), masks[0])
        return self._rest(values, keys, bias, masks, look)

    def step(
        self, values: Values, cache: Tensor, keys: KeyValues, bias: Tensor, masks: Sequence[Mask], look: bool
    ) -> tuple[Values, Tensor | None, Tensor]:
        """One more position of each row, and the cache with it."""
        residual = self.residuals[0]
        answer, cache = self.mixer.step(residual.enter(values), cache)
        return *self._rest(residual.leave(values, answer, masks[0]), keys, bias, masks, look), cache

    def _rest(
        self, values: Values, keys: KeyValues, bias: Tensor, masks: Sequence[Mask], look: bool
    ) -> tuple[Values, Tensor | None]:
        _, second, third = self.residuals
        # The rows of a sentence, be they beams or positions, are queries to its one set of keys.
        queries, weights = second.enter(values).reshape(len(bias), -1, values.shape[2]), None
        if look:
            answer, weights = self.cross.look(queries, keys, bias)
            weights = weights.reshape(*values.shape[:2], -1)
        else:
            answer = self.cross(queries, keys, bias)
        values = second.leave(values, answer.reshape(values.shape), masks[1])
        return third.leave(values, self.feed_forward(third.enter(values)), masks[2]), weights


class TransformerDecoder(Decoder):
    """Writes with a stack of decoder layers.

    The `weights` of a `Decoded` are those of the last layer's attention to the memory, averaged over its heads, and the
    `contexts` the mixture of the memory's states by them; `forward` computes the two on request only.

    A state's `keys` are the padding bias and each layer's projected keys and values, its `cache` a clock and the
    mixers' caches. The clock, (rows, positions written, 0), holds no number: its length is the position.
    """

    def __init__(
        self,
        embed: Embedder,
        entrance: Entrance,
        layers: Sequence[DecoderLayer],
        norm: nn.Module,
        output: nn.Module,
        dim: int,
    ) -> None:
        super().__init__()
        self.embed, self.entrance, self.norm, self.output, self.dim = embed, entrance, norm, output, dim
        self.layers = nn.ModuleList(layers)

    def start(self, memory: Memory) -> State:
        """Project the memory for each layer; nothing is written yet."""
        bias, keys = self._keys(memory)
        # Read again at each step, so laid out once in the order in which they are read.
        keys = tuple((key.contiguous(), value.contiguous()) for key, value in keys)
        like = memory.states[:, :1]
        cache = (like.new_zeros(len(like), 0, 0), tuple(layer.mixer.start(like) for layer in self.layers))
        return State(memory, (bias, keys), cache, masks=self._masks(memory))

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """All positions at once."""
        bias, keys = self._keys(memory)
        masks = self._masks(memory)
        embedded = self.embed(tgt_in.values).masked_fill(~tgt_in.mask[..., None], 0.0)
        values, alpha = self.entrance(embedded, 0, masks[0]), None
        for number, layer in enumerate(self.layers):
            look = weights and number == len(self.layers) - 1
            values, alpha = layer(values, keys[number], bias, masks[1 + 3 * number :], look)
        return self._decoded(values, alpha, memory)

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """One position: only what is new is computed, the past lies in the cache."""
        (bias, keys), (clock, caches), masks = state.keys, state.cache, state.masks
        values, alpha = self.entrance(self.embed(previous)[:, None], clock.shape[1], masks[0]), None
        new = []
        for number, (layer, cache) in enumerate(zip(self.layers, caches, strict=True)):
            look = number == len(self.layers) - 1
            values, alpha, cache = layer.step(values, cache, keys[number], bias, masks[1 + 3 * number :], look)
            new.append(cache)
        clock = clock.new_zeros(len(clock), clock.shape[1] + 1, 0)
        return self._decoded(values, alpha, state.memory), replace(state, cache=(clock, tuple(new)))

    def engine(self) -> Engine:
        """Keys and values written in place, beams as queries to one store."""
        return PureEngine(self) if self.training else TransformerEngine(self)

    def _keys(self, memory: Memory) -> tuple[Tensor, tuple[KeyValues, ...]]:
        bias = padding_bias(memory.mask, memory.states.dtype)
        return bias, tuple(layer.cross.keys(memory.states) for layer in self.layers)

    def _masks(self, memory: Memory) -> tuple[Mask, ...]:
        """Draw what stays the same for a whole sentence (variational dropout): of the entrance and of each branch."""
        like = memory.states.new_zeros(len(memory.mask), self.layers[0].cross.output.out_features)
        return tuple(self.entrance.dropout.draw(like) for _ in range(1 + 3 * len(self.layers)))

    def _decoded(self, values: Values, alpha: Tensor | None, memory: Memory) -> Decoded:
        features = self.output(self.norm(values))
        if alpha is None:
            return Decoded(features)
        by_sentence = alpha.reshape(len(memory.mask), -1, alpha.shape[2])
        contexts = (by_sentence @ memory.states).reshape(*alpha.shape[:2], -1)
        return Decoded(features, alpha, contexts)
