"""Recurrent decoders, one class for each way to use attention.

PlainDecoder      s_t = f(s_{t-1}, y_{t-1})            the whole source in one fixed-length vector, s_0
BahdanauDecoder   s_t = f(s_{t-1}, y_{t-1}, c_t)       c_t from the query s_{t-1}
LuongDecoder      s_t = f(s_{t-1}, y_{t-1} [, feed])   c_t from the query s_t
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.batch import Side
from itda.nn.attention import Attention, Terms
from itda.nn.bridge import Bridge, StackState
from itda.nn.embedding import Embedder, SequenceDropout
from itda.nn.fused.loops import bahdanau_loop, feeding_loop
from itda.nn.fused.rollout import rollout_error
from itda.nn.interface import Affine, Decoded, Decoder, Engine, Memory, PureEngine, State, Tree, tree_map
from itda.nn.product import Linear, linear
from itda.nn.recurrent import Cell, CellState
from itda.nn.walks.recurrent import BahdanauEngine, LuongEngine, can_lay_out

Masks = tuple[Tensor | None, ...]  # of the embedding, of the input of each layer above the first, of the features


class Stack(nn.Module):
    """Recurrent layers on top of each other, with dropout between them.

    From the layer `residual_from` on (counted from 1; 0: none) a layer's input is added to its output (Wu et al. 2016,
    GNMT, arXiv 1609.08144). What a layer reads is dropped, what is added is not, so that the output of the whole stack
    is a sum of states, and can be had again from them. `side` is what each layer reads beside the layer below.
    """

    def __init__(self, cells: Sequence[Cell], dropout: SequenceDropout, residual_from: int = 0) -> None:
        super().__init__()
        self.dim, self.dropout, self.residual_from = cells[0].dim, dropout, residual_from
        self.cells = nn.ModuleList(cells)

    def step(
        self,
        inputs: Float[Tensor, "rows gates"],
        state: StackState,
        masks: Masks | None = None,
        side: Float[Tensor, "rows side"] | None = None,
    ) -> StackState:
        """All layers, one position; `inputs` is already mapped by the first layer's `inputs`, and dropped."""
        new = (self.cells[0].step(inputs, state[0]),)
        for layer, cell in enumerate(self.cells[1:], 1):
            read = self.dropout(self.output(new)[:, None], masks[layer] if masks else None)[:, 0]
            read = read if side is None else torch.cat([read, side], dim=-1)
            new = (*new, cell.step(cell.inputs(read), state[layer]))
        return new

    def sequence(self, values: Float[Tensor, "rows time input"], state: StackState) -> Tensor:
        """The output at all positions: the fast twin of repeated `step`."""
        return self.rise(self.cells[0].sequence(values, state[0], None)[0], state)

    def rise(
        self,
        hidden: Float[Tensor, "rows time dim"],
        state: StackState,
        masks: Masks | None = None,
        side: Float[Tensor, "rows time side"] | None = None,
    ) -> Float[Tensor, "rows time dim"]:
        """The output at all positions, from the hidden states of the first layer.

        Padding is on the right, so what it does to a state is read by nobody: no mask is needed.
        """
        for layer, cell in enumerate(self.cells[1:], 1):
            read = self.dropout(hidden, masks[layer] if masks else None)
            read = read if side is None else torch.cat([read, side], dim=-1)
            states, _ = cell.sequence(read, state[layer], None)
            hidden = states + hidden if self._adds(layer) else states
        return hidden

    def output(self, state: StackState) -> Float[Tensor, "rows dim"]:
        """What the layers that have stepped give: the last one's s_t, and what was added to it."""
        first = len(state) - 1
        while first and self._adds(first):
            first -= 1
        return sum((hidden for hidden, *_ in state[first + 1 :]), state[first][0])

    def _adds(self, layer: int) -> bool:
        return 0 < self.residual_from <= layer + 1


class Readout(nn.Module):
    """Features for the head: tanh of a linear map of what is given, with dropout."""

    def __init__(self, input_dim: int, dim: int, dropout: SequenceDropout) -> None:
        super().__init__()
        self.map, self.dropout = Linear(input_dim, dim), dropout

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
        return self._decoded(self.stack.sequence(self.dropout(self.embed(tgt_in.values)), self.bridge(memory)))

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """s_t = f(s_{t-1}, y_{t-1})."""
        embedded = self.dropout(self.embed(previous)[:, None], state.masks[0])[:, 0]
        cache = self.stack.step(self.stack.cells[0].inputs(embedded), state.cache, state.masks)
        return self._decoded(self.stack.output(cache)[:, None], state.masks[-1]), replace(state, cache=cache)

    def rollout_error(
        self, tgt_in: Side, memory: Memory, shown: Bool[Tensor, "rows tgt"], output: Affine, tgt_out: Side
    ) -> Float[Tensor, ""] | None:
        """Of vectors, with one layer and nothing dropped: all positions by one function with its own backward."""
        maps = self.stack.cells[0].kernel_maps()
        several, turned = len(self.stack.cells) > 1 or self.readout, not self.embed.verbatim or self.dropout.active
        if maps is None or several or turned:
            return None
        (first,) = self.bridge(memory)
        mask = None if tgt_out.whole else tgt_out.mask.t()
        values, target = (side.values.transpose(0, 1) for side in (tgt_in, tgt_out))
        return rollout_error(values, shown.t(), first, maps, output, target, mask)

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
        """s_0, the keys of the attention, and what it keeps of earlier looks."""
        masks = draw_masks(self.dropout, memory, self.embed.dim, self.stack, self.dim)
        cache = (self.bridge(memory), self.attention.start(memory.mask, memory.states))
        return State(memory, self.attention.keys(memory.states), cache, masks=masks)

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """The loop over time, with gold inputs."""
        state = self.start(memory)
        embedded = self.dropout(self.embed(tgt_in.values), state.masks[0])
        cell: Cell = self.stack.cells[0]
        terms, recurrent = self.attention.terms(), cell.recurrent_map()
        if terms is None or recurrent is None or len(self.stack.cells) > 1:
            hidden, contexts, alpha = self._unrolled(embedded, state)
        else:
            first, _ = state.cache
            hidden, contexts, alpha = fused_bahdanau(cell, recurrent, terms, embedded, first[0], state)
        read = torch.cat([hidden, contexts, embedded], dim=-1)
        return Decoded(self.readout(read, state.masks[-1]), alpha if weights else None, contexts)

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """One position."""
        embedded = self.dropout(self.embed(previous)[:, None], state.masks[0])
        context, alpha, state = self._advance(self.stack.cells[0].inputs(embedded[:, 0]), state)
        read = torch.cat([self.stack.output(state.cache[0]), context, embedded[:, 0]], dim=-1)[:, None]
        return Decoded(self.readout(read, state.masks[-1]), alpha[:, None], context[:, None]), state

    def engine(self) -> Engine:
        """What depends on a token or on the source alone, mapped once."""
        return BahdanauEngine(self) if can_lay_out(self) else PureEngine(self)

    def _unrolled(self, embedded: Tensor, state: State) -> tuple[Tensor, Tensor, Tensor]:
        """All s_t, c_t and alpha_t, step by step."""
        hidden, contexts, alphas = [], [], []
        for inputs in self.stack.cells[0].inputs(embedded).unbind(1):
            context, alpha, state = self._advance(inputs, state)
            hidden.append(self.stack.output(state.cache[0]))
            contexts.append(context)
            alphas.append(alpha)
        return torch.stack(hidden, 1), torch.stack(contexts, 1), torch.stack(alphas, 1)

    def _advance(self, inputs: Float[Tensor, "rows gates"], state: State) -> tuple[Tensor, Tensor, State]:
        """c_t and alpha_t from s_{t-1}, then s_t."""
        layers, past = state.cache
        context, alpha, past = attend(self.attention, self.stack.output(layers), state, past)
        inputs = torch.addmm(inputs, context, context_map(self.stack.cells[0], self.embed.dim).t())
        layers = self.stack.step(inputs, layers, state.masks)
        return context, alpha, replace(state, cache=(layers, past))


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
        """s_0, a zero attentional vector, what the attention keeps of earlier looks, and its keys."""
        first = self.bridge(memory)
        feed = memory.states.new_zeros(len(memory.mask), self.dim) if self.input_feeding else None
        masks = draw_masks(self.dropout, memory, self.embed.dim, self.stack, self.dim)
        cache = (first, feed, self.attention.start(memory.mask, memory.states))
        return State(memory, self.attention.keys(memory.states), cache, masks=masks)

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """All positions at once without input feeding, else step by step."""
        state = self.start(memory)
        embedded = self.dropout(self.embed(tgt_in.values), state.masks[0])
        terms, recurrent = self.attention.terms(), self.stack.cells[0].recurrent_map()
        if self.input_feeding and (terms is None or recurrent is None or len(self.stack.cells) > 1):
            return self._unrolled(embedded, state, weights)
        if self.input_feeding:
            return self._fused(embedded, state, terms, recurrent, weights)
        hidden = self.stack.sequence(embedded, state.cache[0])
        contexts, alphas = attend_in_turn(self.attention, hidden, state, state.cache[2])
        return Decoded(self.readout(torch.cat([hidden, contexts], dim=-1)), alphas if weights else None, contexts)

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """One position."""
        return self._advance(self.dropout(self.embed(previous)[:, None], state.masks[0])[:, 0], state)

    def engine(self) -> Engine:
        """What depends on a token or on the source alone, mapped once."""
        return LuongEngine(self) if can_lay_out(self) else PureEngine(self)

    def _fused(
        self, embedded: Tensor, state: State, terms: Terms, recurrent: tuple[Tensor, Tensor], weights: bool
    ) -> Decoded:
        """All positions by one function with its own backward."""
        cell: Cell = self.stack.cells[0]
        (first,), feed, _ = state.cache
        memory, read = state.memory, self.readout.map
        features, alpha = feeding_loop(
            cell.inputs(embedded.transpose(0, 1)), first, recurrent, state.keys,
            linear(memory.states, read.weight[:, cell.dim :], read.bias), memory.mask, terms,
            cell.input_weight[:, self.embed.dim :], read.weight[:, : cell.dim],
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
        layers, feed, past = state.cache
        values = torch.cat([embedded, feed], dim=-1) if self.input_feeding else embedded
        layers = self.stack.step(self.stack.cells[0].inputs(values), layers, state.masks)
        hidden = self.stack.output(layers)  # s_t
        context, alpha, past = attend(self.attention, hidden, state, past)
        features = self.readout(torch.cat([hidden, context], dim=-1)[:, None], state.masks[-1])
        cache = (layers, features[:, 0] if self.input_feeding else None, past)
        return Decoded(features, alpha[:, None], context[:, None]), replace(state, cache=cache)


def attend(
    attention: Attention, query: Float[Tensor, "rows dim"], state: State, past: Tree
) -> tuple[Float[Tensor, "rows context"], Float[Tensor, "rows src"], Tree]:
    """c_t, alpha_t and what is kept of it, for one query a row; beams share the keys of their sentence."""
    memory = state.memory

    def by_sentence(rows: Tensor) -> Tensor:
        return rows.view(len(memory.mask), state.width, -1)

    keys = attention.recall(state.keys, tree_map(by_sentence, past))
    context, alpha = attention(by_sentence(query), keys, memory.states, memory.mask)
    alpha = alpha.flatten(0, 1)
    return context.flatten(0, 1), alpha, attention.follow(past, alpha)


def attend_in_turn(
    attention: Attention, queries: Float[Tensor, "rows tgt dim"], state: State, past: Tree
) -> tuple[Float[Tensor, "rows tgt context"], Float[Tensor, "rows tgt src"]]:
    """All c_t and alpha_t of known queries: at once, or in turn where an alpha depends on those before."""
    memory = state.memory
    if past is None:
        return attention(queries, state.keys, memory.states, memory.mask)
    contexts, alphas = [], []
    for query in queries.unbind(1):
        context, alpha, past = attend(attention, query, state, past)
        contexts.append(context)
        alphas.append(alpha)
    return torch.stack(contexts, 1), torch.stack(alphas, 1)


def fused_bahdanau(
    cell: Cell, recurrent: tuple[Tensor, Tensor], terms: Terms, embedded: Tensor, first: CellState, state: State
) -> tuple[Float[Tensor, "rows tgt dim"], Float[Tensor, "rows tgt context"], Float[Tensor, "rows tgt src"]]:
    """All s_t, c_t and alpha_t of one layer that reads [y_{t-1}; c_t], by one function with its own backward."""
    states = state.memory.states
    hidden, alpha = bahdanau_loop(
        cell.inputs(embedded.transpose(0, 1)), first, recurrent, state.keys,
        linear(states, context_map(cell, embedded.shape[-1])), state.memory.mask, terms,
    )  # fmt: skip
    alpha = alpha.transpose(0, 1)
    return hidden.transpose(0, 1), alpha @ states, alpha


def context_map(cell: Cell, embed_dim: int) -> Float[Tensor, "gates context"]:
    """The part of a cell's input map that belongs to c_t, where y_{t-1} stands before it."""
    return cell.input_weight[:, embed_dim:]
