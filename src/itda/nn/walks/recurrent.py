"""Recurrent decoders with attention under way in a search: what depends on a token, or on the source, mapped once.

- What a token adds to the gates is looked up in a table, once the search has seen as many tokens as it has rows.
- A linear map of c_t = sum_i alpha_{t,i} h_i is the same mixture of mapped h_i, so no step has a product for c_t.
- tanh(x) = 2 sigmoid(2x) - 1, and sigmoid is the quicker one by far; the doubling is done to the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.nn.attention import Attention
from itda.nn.embedding import TokenEmbedding
from itda.nn.interface import Decoded, Engine, Memory, Walk
from itda.nn.product import linear
from itda.nn.recurrent import Cell, LSTMCell
from itda.nn.rounded import Int8Linear

if TYPE_CHECKING:
    from itda.nn.recurrent_decoder import BahdanauDecoder, LuongDecoder

LARGEST = 1 << 25  # numbers in a table of mapped tokens
Rows = Float[Tensor, "rows dim"]


def can_lay_out(decoder: BahdanauDecoder | LuongDecoder) -> bool:
    """Whether what is laid out here is what `step` does: one layer, a cell and a score that are known, no int8.

    Rounded weights read as their values, so that nothing but the time would tell if they were laid out in full.
    """
    cells = decoder.stack.cells
    if decoder.training or len(cells) > 1 or cells[0].kernel_maps() is None or decoder.attention.terms() is None:
        return False
    return not any(isinstance(part, Int8Linear) for part in decoder.modules())


def halfway(values: Tensor) -> Tensor:
    """Make tanh(x) of 2x, in place."""
    return values.sigmoid_().mul_(2.0).sub_(1.0)


class MappedTokens:
    """W y + b of each token, by a product, or by a table as soon as that has cost as much as the table does."""

    def __init__(self, embed: torch.nn.Module, weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"]) -> None:
        self.embed, self.weight, self.bias, self.seen = embed, weight.contiguous(), bias, 0
        self.rows = len(embed.table.weight) if isinstance(embed, TokenEmbedding) else 0
        self._table: Float[Tensor, "vocab out"] | None = None

    def __call__(self, tokens: Tensor) -> Float[Tensor, "rows out"]:
        """Map what was written last; the answer is the caller's."""
        if self._table is not None:
            return self._table.index_select(0, tokens)
        self.seen += len(tokens)
        if self.rows and self.seen > self.rows and self.rows * len(self.weight) <= LARGEST:
            self._table = linear(self.embed.table.weight, self.weight, self.bias)
        return linear(self.embed(tokens), self.weight, self.bias)


class Gates:
    """A cell whose input side comes mapped; `stretch` is what all that is added into its gates is multiplied by."""

    def __init__(self, cell: Cell) -> None:
        maps = cell.kernel_maps()
        assert maps is not None, "a cell that can be written out"
        weight, bias, recurrent, recurrent_bias = maps
        self.cell, self.lstm = cell, isinstance(cell, LSTMCell)
        self.stretch = weight.new_ones(len(weight))
        if self.lstm:
            bias = bias + recurrent_bias
            self.stretch[2 * cell.dim : 3 * cell.dim] = 2.0  # the candidate's tanh is a sigmoid too
        self.weight, self.bias = weight * self.stretch[:, None], bias * self.stretch
        self.recurrent = (recurrent * self.stretch[:, None]).contiguous()

    def step(self, inputs: Float[Tensor, "rows gates"], state: tuple[Rows, ...]) -> tuple[Rows, ...]:
        """s_t; for an LSTM, `inputs` holds the recurrent part too. Both may be written over."""
        if not self.lstm:
            return self.cell.step(inputs, state)
        i, f, g, o = inputs.sigmoid_().chunk(4, dim=1)
        cell = state[1].mul_(f).addcmul_(i, g.mul_(2.0).sub_(1.0))
        return halfway(cell * 2.0).mul_(o), cell


class Sight:
    """The attention of a walk: what it needs of its sentences, and alpha for each row."""

    def __init__(self, attention: Attention, memory: Memory) -> None:
        terms = attention.terms()
        assert terms is not None, "an attention that can be written out"
        query_map, energy = terms
        self.additive = query_map is not None and energy is not None
        keys = attention.keys(memory.states)
        if self.additive:
            self.query_map, self.energy, keys = (query_map * 2.0).contiguous(), energy * 2.0, keys * 2.0
        self.keys: Float[Tensor, "sentences src key"] = keys
        self._room = keys.new_empty(0)
        self._lay_out_padding(memory)

    def __call__(self, query: Rows) -> Float[Tensor, "sentences width src"]:
        """alpha_t for one query a row."""
        sentences, source, dim = self.keys.shape
        if not self.additive:
            scores = query.view(sentences, -1, query.shape[1]) @ self.keys.transpose(1, 2)
        else:
            mapped = linear(query, self.query_map, None).view(sentences, -1, 1, dim)
            shape = (sentences, mapped.shape[1], source, dim)
            size = shape[0] * shape[1] * shape[2] * shape[3]
            if self._room.numel() < size:
                self._room = self.keys.new_empty(size)
            sums = torch.add(mapped, self.keys[:, None], out=self._room[:size].view(shape)).sigmoid_()
            # 2 v^T sigmoid(2x) is v^T tanh(x) plus a number that is the same for each position.
            scores = torch.mv(sums.view(-1, dim), self.energy).view(shape[:3])
        if self.padding is not None:
            scores += self.padding
        return torch.softmax(scores, dim=2)

    def select(self, memory: Memory, sentences: Int[Tensor, " kept"]) -> None:
        """Keep some sentences; `memory` holds them alone."""
        self.keys = self.keys.index_select(0, sentences)
        self._lay_out_padding(memory)

    def _lay_out_padding(self, memory: Memory) -> None:
        self.padding: Float[Tensor, "sentences 1 src"] | None = None
        if not bool(memory.mask.all()):
            zeros = self.keys.new_zeros(memory.mask.shape)
            self.padding = zeros.masked_fill_(~memory.mask, -torch.inf)[:, None]


class LuongEngine(Engine):
    """s_t from the token, what was fed and s_{t-1}; then alpha_t; then the features from s_t and the mixture."""

    def __init__(self, decoder: LuongDecoder) -> None:
        self.decoder, self.gates = decoder, Gates(decoder.stack.cells[0])
        read, dim, embedding = decoder.readout.map, decoder.stack.dim, decoder.embed.dim
        self.tokens = MappedTokens(decoder.embed, self.gates.weight[:, :embedding], self.gates.bias)
        self.feed_map = self.gates.weight[:, embedding:].contiguous()
        # What was fed and s_{t-1} stand beside each other, and are one product where the cell allows it.
        self.carry_map = torch.cat([self.feed_map, self.gates.recurrent], dim=1)
        self.hidden_map = (read.weight[:, :dim] * 2.0).contiguous()
        self.context_map, self.read_bias = (read.weight[:, dim:] * 2.0).contiguous(), read.bias * 2.0

    def start(self, memory: Memory, *, weights: bool) -> LuongWalk:
        """Map the memory for the readout."""
        return LuongWalk(self, memory, weights)


class RecurrentWalk(Walk):
    """What the walks of recurrent decoders share: the rows of the state, and what is mapped of the memory."""

    state: tuple[Rows, ...]
    mapped: Float[Tensor, "sentences src mapped"]
    sight: Sight

    def _answer(self, features: Rows, alpha: Float[Tensor, "sentences width src"], weights: bool) -> Decoded:
        if not weights:
            return Decoded(features[:, None])
        contexts = alpha @ self.memory.states
        return Decoded(features[:, None], alpha.flatten(0, 1)[:, None], contexts.flatten(0, 1)[:, None])

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i go on from what row `rows[i]` was."""
        self.state = tuple(part.index_select(0, rows) for part in self.state)

    def widen(self, width: int) -> None:
        """Give each sentence `width` rows."""
        self.width = width
        self.state = tuple(part.repeat_interleave(width, dim=0) for part in self.state)

    def select(self, sentences: Int[Tensor, " kept"]) -> None:
        """Keep some sentences."""
        self.memory = self.memory.select(sentences)
        self.mapped = self.mapped.index_select(0, sentences)
        self.sight.select(self.memory, sentences)
        shape = (-1, self.width)
        self.state = tuple(part.unflatten(0, shape).index_select(0, sentences).flatten(0, 1) for part in self.state)


class LuongWalk(RecurrentWalk):
    """Where a Luong decoder stands in a search; the state is [feed; s] in one tensor, then the cell of an LSTM."""

    def __init__(self, engine: LuongEngine, memory: Memory, weights: bool) -> None:
        self.engine, self.memory, self.weights = engine, memory, weights
        decoder = engine.decoder
        self.sight = Sight(decoder.attention, memory)
        self.mapped = linear(memory.states, engine.context_map, engine.read_bias)
        (first,) = decoder.bridge(memory)
        self.feed = decoder.dim if decoder.input_feeding else 0
        carry = torch.cat([first[0].new_zeros(len(first[0]), self.feed), first[0]], dim=1)
        self.state = (carry, *(part.clone() for part in first[1:]))

    def step(self, previous: Int[Tensor, " rows"]) -> Decoded:
        """One position."""
        engine, (carry, *cell) = self.engine, self.state
        inputs = engine.tokens(previous)
        if engine.gates.lstm:
            inputs += linear(carry, engine.carry_map, None)
        elif self.feed:
            inputs += linear(carry[:, : self.feed], engine.feed_map, None)
        hidden, *cell = engine.gates.step(inputs, (carry[:, self.feed :], *cell))
        alpha = self.sight(hidden)
        shape = (*alpha.shape[:2], -1)
        features = torch.baddbmm(linear(hidden, engine.hidden_map, None).view(shape), alpha, self.mapped)
        features = halfway(features.flatten(0, 1))
        self.state = (torch.cat([features, hidden], dim=1) if self.feed else hidden, *cell)
        return self._answer(features, alpha, self.weights)


class BahdanauEngine(Engine):
    """alpha_t from s_{t-1}; then s_t from the token, the mixture and s_{t-1}; then the features from all three."""

    def __init__(self, decoder: BahdanauDecoder) -> None:
        self.decoder, self.gates = decoder, Gates(decoder.stack.cells[0])
        read, dim, embedding = decoder.readout.map, decoder.stack.dim, decoder.embed.dim
        state, context, token = (read.weight * 2.0).split([dim, read.in_features - dim - embedding, embedding], dim=1)
        weight, self.width = self.gates.weight, len(self.gates.weight)
        # What a token adds, and what a position of the source adds: to the gates first, then to the readout.
        self.tokens = MappedTokens(
            decoder.embed,
            torch.cat([weight[:, :embedding], token]),
            torch.cat([self.gates.bias, read.bias * 2.0]),
        )
        self.context_map = torch.cat([weight[:, embedding:], context])
        self.hidden_map = state.contiguous()

    def start(self, memory: Memory, *, weights: bool) -> BahdanauWalk:
        """Map the memory for the gates and the readout."""
        return BahdanauWalk(self, memory, weights)


class BahdanauWalk(RecurrentWalk):
    """Where a Bahdanau decoder stands in a search."""

    def __init__(self, engine: BahdanauEngine, memory: Memory, weights: bool) -> None:
        self.engine, self.memory, self.weights = engine, memory, weights
        self.sight = Sight(engine.decoder.attention, memory)
        self.mapped = linear(memory.states, engine.context_map, None)
        (first,) = engine.decoder.bridge(memory)
        self.state = tuple(part.clone() for part in first)

    def step(self, previous: Int[Tensor, " rows"]) -> Decoded:
        """One position."""
        engine = self.engine
        alpha = self.sight(self.state[0])
        added = torch.baddbmm(engine.tokens(previous).view(*alpha.shape[:2], -1), alpha, self.mapped).flatten(0, 1)
        inputs, read = added.split([engine.width, added.shape[1] - engine.width], dim=1)
        if engine.gates.lstm:
            inputs = linear(self.state[0], engine.gates.recurrent, None).add_(inputs)
        self.state = engine.gates.step(inputs, self.state)
        features = halfway(linear(self.state[0], engine.hidden_map, None).add_(read))
        return self._answer(features, alpha, self.weights)
