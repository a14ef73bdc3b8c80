"""Recurrent decoders, one class for each way to use attention.

PlainDecoder      s_t = f(s_{t-1}, y_{t-1})            the whole source in one fixed-length vector, s_0
BahdanauDecoder   s_t = f(s_{t-1}, y_{t-1}, c_t)       c_t from the query s_{t-1}
LuongDecoder      s_t = f(s_{t-1}, y_{t-1} [, feed])   c_t from the query s_t
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.batch import Side
from itda.nn.attention import Attention, Terms
from itda.nn.embedding import Embedder, SequenceDropout
from itda.nn.fused.loops import bahdanau_loop, feeding_loop
from itda.nn.interface import Decoded, Decoder, Engine, Memory, PureEngine, State
from itda.nn.recurrent import Cell, CellState, make_cell, recurrent_map
from itda.nn.walks.recurrent import BahdanauEngine, LuongEngine

StackState = tuple[CellState, ...]  # one entry a layer
Masks = tuple[Tensor | None, ...]  # of the embedding, of the input of each layer above the first, of the features


class Stack(nn.Module):
    """Recurrent layers on top of each other, with dropout between them."""

    def __init__(self, cell: str, input_dim: int, dim: int, num_layers: int, dropout: SequenceDropout) -> None:
        super().__init__()
        self.input_dim, self.dim, self.dropout = input_dim, dim, dropout
        self.cells = nn.ModuleList(make_cell(cell, input_dim if not i else dim, dim) for i in range(num_layers))

    def step(self, inputs: Float[Tensor, "rows gates"], state: StackState, masks: Masks | None = None) -> StackState:
        """All layers, one position; `inputs` is already mapped by the first layer's `inputs`, and dropped."""
        new: list[CellState] = []
        for layer, cell in enumerate(self.cells):
            if layer:
                inputs = cell.inputs(self.dropout(new[-1][0][:, None], masks[layer] if masks else None)[:, 0])
            new.append(cell.step(inputs, state[layer]))
        return tuple(new)

    def sequence(self, values: Float[Tensor, "rows time input"], state: StackState, mask: Tensor) -> Tensor:
        """The top layer's hidden states at all positions: the fast twin of repeated `step`."""
        for layer, cell in enumerate(self.cells):
            values, _ = cell.sequence(self.dropout(values) if layer else values, state[layer], mask)
        return values


class DenseBridge(nn.Module):
    """The decoder's first state as a learned map of the encoder's last: tanh(W [h; c] + b), for each layer."""

    def __init__(self, summary_dim: int, dim: int, num_layers: int, parts: int) -> None:
        super().__init__()
        self.num_layers, self.parts = num_layers, parts
        self.map = nn.Linear(summary_dim, dim * num_layers * parts)

    def forward(self, memory: Memory) -> StackState:
        """The first state of each layer."""
        first = torch.tanh(self.map(torch.cat(memory.summary[-1], dim=-1))).chunk(self.num_layers * self.parts, dim=-1)
        return tuple(tuple(first[i * self.parts : (i + 1) * self.parts]) for i in range(self.num_layers))


class CopyBridge(nn.Module):
    """The decoder's first state is the encoder's last, layer by layer: the lecture's context vector."""

    def forward(self, memory: Memory) -> StackState:
        """The encoder's summary as it is."""
        return memory.summary


Bridge = DenseBridge | CopyBridge


class Readout(nn.Module):
    """Features for the head: tanh of a linear map of what is given, with dropout."""

    def __init__(self, input_dim: int, dim: int, dropout: SequenceDropout) -> None:
        super().__init__()
        self.map, self.dropout = nn.Linear(input_dim, dim), dropout

    def forward(
        self, values: Float[Tensor, "rows tgt input"], mask: Tensor | None = None
    ) -> Float[Tensor, "rows tgt dim"]:
        """Map and drop, by the sentences' mask where it is given."""
        return self.dropout(torch.tanh(self.map(values)), mask)


def draw_masks(dropout: SequenceDropout, memory: Memory, embed_dim: int, stack: Stack, feature_dim: int) -> Masks:
    """Draw what stays the same for a whole sentence (variational dropout): None, and None again, where nothing does."""
    sizes = [embed_dim, *[stack.dim] * (len(stack.cells) - 1), feature_dim]
    return tuple(dropout.draw(memory.states.new_zeros(len(memory.mask), size)) for size in sizes)


class PlainDecoder(Decoder):
    """Encoder-decoder without attention (Sutskever et al. 2014, arXiv 1409.3215)."""

    def __init__(
        self, embed: Embedder, stack: Stack, bridge: Bridge, readout: Readout | None, dropout: SequenceDropout
    ) -> None:
        super().__init__()
        self.embed, self.stack, self.bridge, self.readout, self.dropout = embed, stack, bridge, readout, dropout
        self.dim = readout.map.out_features if readout else stack.dim

    def start(self, memory: Memory) -> State:
        """s_0 from the encoder's summary."""
        return State(memory, None, self.bridge(memory), masks=self._masks(memory))

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """All positions at once, by torch's own kernel."""
        return self._decoded(
            self.stack.sequence(self.dropout(self.embed(tgt_in.values)), self.bridge(memory), tgt_in.mask)
        )

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """s_t = f(s_{t-1}, y_{t-1})."""
        embedded = self.dropout(self.embed(previous)[:, None], state.masks[0])[:, 0]
        cache = self.stack.step(self.stack.cells[0].inputs(embedded), state.cache, state.masks)
        return self._decoded(cache[-1][0][:, None], state.masks[-1]), replace(state, cache=cache)

    def _masks(self, memory: Memory) -> Masks:
        return draw_masks(self.dropout, memory, self.embed.dim, self.stack, self.dim)

    def _decoded(self, hidden: Tensor, mask: Tensor | None = None) -> Decoded:
        return Decoded(self.readout(hidden, mask) if self.readout else self.dropout(hidden, mask))


class BahdanauDecoder(Decoder):
    """Attention with the query s_{t-1} (Bahdanau et al. 2015): s_t = f(s_{t-1}, y_{t-1}, c_t).

    The stack's input is [y_{t-1}; c_t]; the readout sees [s_t; c_t; y_{t-1}]. What depends on y alone is
    computed for all positions before the loop over time, the readout for all positions after it.
    """

    def __init__(
        self,
        embed: Embedder,
        stack: Stack,
        attention: Attention,
        bridge: Bridge,
        readout: Readout,
        dropout: SequenceDropout,
    ) -> None:
        super().__init__()
        self.embed, self.stack, self.attention, self.bridge = embed, stack, attention, bridge
        self.readout, self.dropout = readout, dropout
        self.dim = readout.map.out_features

    def start(self, memory: Memory) -> State:
        """s_0, and the keys of the attention."""
        masks = draw_masks(self.dropout, memory, self.embed.dim, self.stack, self.dim)
        return State(memory, self.attention.keys(memory.states), self.bridge(memory), masks=masks)

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """The loop over time, with gold inputs."""
        state = self.start(memory)
        embedded = self.dropout(self.embed(tgt_in.values), state.masks[0])
        terms = self.attention.terms()
        if terms is None or len(self.stack.cells) > 1:
            hidden, contexts, alpha = self._unrolled(embedded, state)
        else:
            hidden, contexts, alpha = self._fused(embedded, state, terms)
        read = torch.cat([hidden, contexts, embedded], dim=-1)
        return Decoded(self.readout(read, state.masks[-1]), alpha if weights else None, contexts)

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """One position."""
        embedded = self.dropout(self.embed(previous)[:, None], state.masks[0])
        context, alpha, state = self._advance(self.stack.cells[0].inputs(embedded[:, 0]), state)
        read = torch.cat([state.cache[-1][0], context, embedded[:, 0]], dim=-1)[:, None]
        return Decoded(self.readout(read, state.masks[-1]), alpha[:, None], context[:, None]), state

    def engine(self) -> Engine:
        """What depends on a token or on the source alone, mapped once."""
        if self.training or self.attention.terms() is None or len(self.stack.cells) > 1:
            return PureEngine(self)
        return BahdanauEngine(self)

    def _unrolled(self, embedded: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """All s_t, c_t and alpha_t, step by step."""
        hidden, contexts, alphas = [], [], []
        for inputs in self.stack.cells[0].inputs(embedded).unbind(1):
            context, alpha, state = self._advance(inputs, state)
            hidden.append(state.cache[-1][0])
            contexts.append(context)
            alphas.append(alpha)
        return torch.stack(hidden, 1), torch.stack(contexts, 1), torch.stack(alphas, 1)

    def _fused(self, embedded: Tensor, state: State, terms: Terms) -> tuple[Tensor, Tensor, Tensor]:
        """All s_t, c_t and alpha_t, by one function with its own backward."""
        cell: Cell = self.stack.cells[0]
        hidden, alpha = bahdanau_loop(
            cell.inputs(embedded.transpose(0, 1)), state.cache[0], recurrent_map(cell), state.keys,
            nn.functional.linear(state.memory.states, self._context_map()), state.memory.mask, terms,
        )  # fmt: skip
        alpha = alpha.transpose(0, 1)
        return hidden.transpose(0, 1), alpha @ state.memory.states, alpha

    def _context_map(self) -> Float[Tensor, "gates context"]:
        """The part of the first cell's input map that belongs to c_t."""
        cell: Cell = self.stack.cells[0]
        return cell.kernel.weight_ih_l0[:, self.embed.dim :]

    def _advance(self, inputs: Float[Tensor, "rows gates"], state: State) -> tuple[Tensor, Tensor, State]:
        """c_t and alpha_t from s_{t-1}, then s_t."""
        query = state.cache[-1][0]  # s_{t-1}
        context, alpha = attend(self.attention, query, state)
        inputs = torch.addmm(inputs, context, self._context_map().t())
        cache = self.stack.step(inputs, state.cache, state.masks)
        return context, alpha, replace(state, cache=cache)


class LuongDecoder(Decoder):
    """Attention with the query s_t (Luong et al. 2015): features are tanh(W [s_t; c_t]).

    With input feeding they are part of the next input, and the loop over time is needed; without it all
    positions are computed at once.
    """

    def __init__(
        self,
        embed: Embedder,
        stack: Stack,
        attention: Attention,
        bridge: Bridge,
        readout: Readout,
        dropout: SequenceDropout,
        input_feeding: bool,
    ) -> None:
        super().__init__()
        self.embed, self.stack, self.attention, self.bridge = embed, stack, attention, bridge
        self.readout, self.dropout, self.input_feeding = readout, dropout, input_feeding
        self.dim = readout.map.out_features

    def start(self, memory: Memory) -> State:
        """s_0 and a zero attentional vector, and the keys of the attention."""
        first = self.bridge(memory)
        feed = memory.states.new_zeros(len(memory.mask), self.dim) if self.input_feeding else None
        masks = draw_masks(self.dropout, memory, self.embed.dim, self.stack, self.dim)
        return State(memory, self.attention.keys(memory.states), (first, feed), masks=masks)

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """All positions at once without input feeding, else step by step."""
        state = self.start(memory)
        embedded = self.dropout(self.embed(tgt_in.values), state.masks[0])
        terms = self.attention.terms()
        if self.input_feeding and (terms is None or len(self.stack.cells) > 1):
            return self._unrolled(embedded, state, weights)
        if self.input_feeding:
            return self._fused(embedded, state, terms, weights)
        hidden = self.stack.sequence(embedded, state.cache[0], tgt_in.mask)
        contexts, alphas = self.attention(hidden, state.keys, memory.states, memory.mask)
        return Decoded(self.readout(torch.cat([hidden, contexts], dim=-1)), alphas if weights else None, contexts)

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """One position."""
        return self._advance(self.dropout(self.embed(previous)[:, None], state.masks[0])[:, 0], state)

    def engine(self) -> Engine:
        """What depends on a token or on the source alone, mapped once."""
        if self.training or self.attention.terms() is None or len(self.stack.cells) > 1:
            return PureEngine(self)
        return LuongEngine(self)

    def _fused(self, embedded: Tensor, state: State, terms: Terms, weights: bool) -> Decoded:
        """All positions by one function with its own backward."""
        cell: Cell = self.stack.cells[0]
        (first,), feed = state.cache
        memory, read = state.memory, self.readout.map
        features, alpha = feeding_loop(
            cell.inputs(embedded.transpose(0, 1)), first, recurrent_map(cell), state.keys,
            nn.functional.linear(memory.states, read.weight[:, cell.dim :], read.bias), memory.mask, terms,
            cell.kernel.weight_ih_l0[:, self.embed.dim :], read.weight[:, : cell.dim],
            self.dropout.draw_steps(embedded.shape[1], feed, state.masks[-1]),
        )  # fmt: skip
        features, alpha = features.transpose(0, 1), alpha.transpose(0, 1)
        return Decoded(features, alpha, alpha @ memory.states) if weights else Decoded(features)

    def _unrolled(self, embedded: Tensor, state: State, weights: bool) -> Decoded:
        """All positions, step by step."""
        parts = []
        for values in embedded.unbind(1):
            decoded, state = self._advance(values, state)
            parts.append(decoded)
        alphas = torch.cat([part.weights for part in parts], 1) if weights else None
        return Decoded(torch.cat([p.features for p in parts], 1), alphas, torch.cat([p.contexts for p in parts], 1))

    def _advance(self, embedded: Float[Tensor, "rows embedding"], state: State) -> tuple[Decoded, State]:
        """s_t, then c_t and alpha_t from it, then the features."""
        layers, feed = state.cache
        values = torch.cat([embedded, feed], dim=-1) if self.input_feeding else embedded
        layers = self.stack.step(self.stack.cells[0].inputs(values), layers, state.masks)
        hidden = layers[-1][0]  # s_t
        context, alpha = attend(self.attention, hidden, state)
        features = self.readout(torch.cat([hidden, context], dim=-1)[:, None], state.masks[-1])
        cache = (layers, features[:, 0] if self.input_feeding else None)
        return Decoded(features, alpha[:, None], context[:, None]), replace(state, cache=cache)


def attend(attention: Attention, query: Float[Tensor, "rows dim"], state: State) -> tuple[Tensor, Tensor]:
    """c_t (rows, context) and alpha_t (rows, src) for one query a row; beams share the keys of their sentence."""
    memory = state.memory
    queries = query.view(len(memory.mask), state.width, -1)
    context, alpha = attention(queries, state.keys, memory.states, memory.mask)
    return context.flatten(0, 1), alpha.flatten(0, 1)
