"""Recurrent cells with layer normalisation (Ba et al. 2016, arXiv 1607.06450, equations 20 to 22 and 27 to 29).

    LN(a) = gain * (a - mean(a)) / std(a) + bias        over the numbers of one position, so no neighbour is seen

Both sides of a gate are normalised before they are added: W x_t and W s_{t-1}. An input may come in parts, so `inputs`
gives the bare product and the norm is the first thing that `step` does. Torch has no kernel for these cells, and the
fused loops do not know them: `sequence` is a loop over time in which only the input side is done beforehand.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.nn.recurrent import Cell, CellState, Mask, Sequence, States, first_state, last_real


class NormedLSTMCell(Cell):
    """An LSTM whose gates i, f, g, o are normalised as one vector, and its cell where it is read.

        gates = LN(W_h s_{t-1}) + LN(W_x x_t)    c_t = f * c_{t-1} + i * tanh(g)    s_t = o * tanh(LN(c_t))

    One bias is enough for a sum, so the norm of the input side has none.
    """

    parts = 2

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.input_map, self.hidden_map = _bare_map(input_dim, 4 * dim), _bare_map(dim, 4 * dim)
        self.input_norm, self.hidden_norm = nn.LayerNorm(4 * dim, bias=False), nn.LayerNorm(4 * dim)
        self.cell_norm = nn.LayerNorm(dim)

    @property
    def input_weight(self) -> Float[Tensor, "gates input"]:
        """W_x."""
        return self.input_map.weight

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_x x, before its norm."""
        return nn.functional.linear(values, self.input_map.weight[:, : values.shape[-1]])

    def step(self, inputs: Float[Tensor, "rows gates"], state: CellState) -> CellState:
        """s_t from s_{t-1} and the mapped input."""
        return self._advance(self.input_norm(inputs), state)

    def sequence(self, values: Sequence, state: CellState | None, mask: Mask | None) -> tuple[States, CellState]:
        """All positions, in a loop."""
        return _over_time(self._advance, self.input_norm(self.inputs(values)), state or first_state(self, values), mask)

    def _advance(self, normed: Tensor, state: CellState) -> CellState:
        hidden, cell = state
        i, f, g, o = (normed + self.hidden_norm(self.hidden_map(hidden))).chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(self.cell_norm(cell)), cell


class NormedGRUCell(Cell):
    """A GRU whose gates r, z are normalised as one vector, and its candidate n as another.

        r, z = LN(W_h s_{t-1}) + LN(W_x x_t)    n = tanh(LN(W x_t) + r * LN(U s_{t-1}))
        s_t = (1 - z) * n + z * s_{t-1}

    As in torch's GRU, z keeps what was (the paper's z is 1 - z here).
    """

    parts = 1

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.input_map, self.hidden_map = _bare_map(input_dim, 3 * dim), _bare_map(dim, 3 * dim)
        self.input_gate_norm, self.hidden_gate_norm = nn.LayerNorm(2 * dim, bias=False), nn.LayerNorm(2 * dim)
        self.input_new_norm, self.hidden_new_norm = nn.LayerNorm(dim), nn.LayerNorm(dim)

    @property
    def input_weight(self) -> Float[Tensor, "gates input"]:
        """W_x and W, below each other."""
        return self.input_map.weight

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_x x and W x, before their norms."""
        return nn.functional.linear(values, self.input_map.weight[:, : values.shape[-1]])

    def step(self, inputs: Float[Tensor, "rows gates"], state: CellState) -> CellState:
        """s_t from s_{t-1} and the mapped input."""
        return self._advance(self._normed(inputs), state)

    def sequence(self, values: Sequence, state: CellState | None, mask: Mask | None) -> tuple[States, CellState]:
        """All positions, in a loop."""
        return _over_time(self._advance, self._normed(self.inputs(values)), state or first_state(self, values), mask)

    def _normed(self, inputs: Float[Tensor, "*lead gates"]) -> Float[Tensor, "*lead gates"]:
        gates, new = inputs.split([2 * self.dim, self.dim], dim=-1)
        return torch.cat([self.input_gate_norm(gates), self.input_new_norm(new)], dim=-1)

    def _advance(self, normed: Tensor, state: CellState) -> CellState:
        (hidden,) = state
        gates_in, new_in = normed.split([2 * self.dim, self.dim], dim=1)
        gates_rec, new_rec = self.hidden_map(hidden).split([2 * self.dim, self.dim], dim=1)
        reset, update = torch.sigmoid(gates_in + self.hidden_gate_norm(gates_rec)).chunk(2, dim=1)
        new = torch.tanh(new_in + reset * self.hidden_new_norm(new_rec))
        return (new + update * (hidden - new),)


def _bare_map(input_dim: int, dim: int) -> nn.Linear:
    return nn.Linear(input_dim, dim, bias=False)


def _over_time(
    advance: Callable[[Tensor, CellState], CellState],
    normed: Float[Tensor, "rows time gates"],
    state: CellState,
    mask: Mask | None,
) -> tuple[States, CellState]:
    """Repeat a step; padding is walked over, and the state is read before it."""
    passed = []
    for inputs in normed.unbind(1):
        state = advance(inputs, state)
        passed.append(state)
    parts = [torch.stack(part, dim=1) for part in zip(*passed, strict=True)]
    return parts[0], tuple(last_real(part, mask) for part in parts)
