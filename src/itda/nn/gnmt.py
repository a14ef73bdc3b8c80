"""The decoder of GNMT (Wu et al. 2016, arXiv 1609.08144, section 3): the bottom layer looks, all layers see.

    c_t from the query s^1_{t-1}    s^1_t = f(s^1_{t-1}, [y_{t-1}; c_t])    s^k_t = f(s^k_{t-1}, [x^{k-1}_t; c_t])

x^k_t is s^k_t, with x^{k-1}_t added from the layer where residual sums begin. As no upper layer has a say in where to
look, only the bottom one needs the loop with attention; the others then run over all positions by torch's own kernel.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.batch import Side
from itda.nn.interface import Decoded, Engine, Memory, PureEngine, State
from itda.nn.recurrent import Cell, CellState
from itda.nn.recurrent_decoder import BahdanauDecoder, attend, context_map, fused_bahdanau


class GNMTDecoder(BahdanauDecoder):
    """Attention in the bottom layer, its context in every layer; the readout sees the top alone.

    Made of the same parts as Bahdanau's decoder, and started alike.
    """

    def forward(self, tgt_in: Side, memory: Memory, *, weights: bool = False) -> Decoded:
        """The bottom layer in its loop over time, then each other layer at all positions."""
        state = self.start(memory)
        layers, _ = state.cache
        embedded = self.dropout(self.embed(tgt_in.values), state.masks[0])
        cell: Cell = self.stack.cells[0]
        terms, recurrent = self.attention.terms(), cell.recurrent_map()
        if terms is None or recurrent is None:
            hidden, contexts, alpha = self._unrolled(embedded, state)
        else:
            hidden, contexts, alpha = fused_bahdanau(cell, recurrent, terms, embedded, layers[0], state)
        top = self.stack.rise(hidden, layers, state.masks, contexts)
        return Decoded(self.readout(top, state.masks[-1]), alpha if weights else None, contexts)

    def step(self, previous: Tensor, state: State) -> tuple[Decoded, State]:
        """One position of all layers."""
        layers, past = state.cache
        embedded = self.dropout(self.embed(previous)[:, None], state.masks[0])[:, 0]
        context, alpha, past = attend(self.attention, layers[0][0], state, past)
        inputs = self._with_context(self.stack.cells[0].inputs(embedded), context)
        layers = self.stack.step(inputs, layers, state.masks, context)
        features = self.readout(self.stack.output(layers)[:, None], state.masks[-1])
        return Decoded(features, alpha[:, None], context[:, None]), replace(state, cache=(layers, past))

    def engine(self) -> Engine:
        """Step by step."""
        return PureEngine(self)

    def _unrolled(self, embedded: Float[Tensor, "rows tgt embedding"], state: State) -> tuple[Tensor, Tensor, Tensor]:
        """All s^1_t, c_t and alpha_t, step by step."""
        cell: Cell = self.stack.cells[0]
        layers, past = state.cache
        bottom: CellState = layers[0]
        hidden, contexts, alphas = [], [], []
        for inputs in cell.inputs(embedded).unbind(1):
            context, alpha, past = attend(self.attention, bottom[0], state, past)
            bottom = cell.step(self._with_context(inputs, context), bottom)
            hidden.append(bottom[0])
            contexts.append(context)
            alphas.append(alpha)
        return torch.stack(hidden, 1), torch.stack(contexts, 1), torch.stack(alphas, 1)

    def _with_context(self, inputs: Float[Tensor, "rows gates"], context: Tensor) -> Tensor:
        return inputs + nn.functional.linear(context, context_map(self.stack.cells[0], self.embed.dim))
