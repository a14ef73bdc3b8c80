"""Recurrent cells and the recurrent encoder.

A cell is split where the time loop needs it: `inputs` maps all positions at once (one large product),
`step` does what depends on the state before. `sequence` is the fast twin: torch's own kernel over time.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.batch import Side
from itda.nn.embedding import Embedder, SequenceDropout, reverse_sequences
from itda.nn.interface import Encoder, Memory

SATURATED = 1e4  # a gate input of this size gives exactly 0 or 1
Sequence = Float[Tensor, "rows time input"]
States = Float[Tensor, "rows time dim"]
Mask = Bool[Tensor, "rows time"]
CellState = tuple[Tensor, ...]  # (hidden,) for a GRU, (hidden, cell) for an LSTM, each (rows, dim)


def last_real(states: States, mask: Mask) -> Float[Tensor, "rows dim"]:
    """The state at the last real position of each row (position 0 where none is real)."""
    last = (mask.sum(1) - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), last]


class LSTMCell(nn.Module):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), with torch's parameters and gate order i, f, g, o."""

    parts = 2

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.kernel = nn.LSTM(input_dim, dim, batch_first=True)

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_ih x + b_ih + b_hh, for all positions at once; the part of x, where it is the first part of the input."""
        k = self.kernel
        return nn.functional.linear(values, k.weight_ih_l0[:, : values.shape[-1]], k.bias_ih_l0 + k.bias_hh_l0)

    def recur(self, inputs: Float[Tensor, "rows gates"], hidden: Tensor) -> Float[Tensor, "rows gates"]:
        """W_ih x + W_hh h + b."""
        return torch.addmm(inputs, hidden, self.kernel.weight_hh_l0.t())

    def step(self, inputs: Float[Tensor, "rows gates"], state: CellState) -> CellState:
        """s_t from s_{t-1} and the mapped input."""
        hidden, cell = state
        i, f, g, o = self.recur(inputs, hidden).chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def sequence(self, values: Sequence, state: CellState, mask: Mask) -> tuple[States, CellState]:
        """Hidden states at all positions, and the whole state after the last real position of each row.

        The kernel knows no mask and gives c only after padding. An extra input that is 1 on padding closes the
        input gate and opens the forget gate there, exactly (sigmoid saturates to 0 and 1): c stands still.
        """
        k = self.kernel
        saturate = values.new_zeros(4, self.dim, 1)
        saturate[0], saturate[1] = -SATURATED, SATURATED
        weight = torch.cat([k.weight_ih_l0, saturate.flatten(0, 1)], dim=1)
        padded = torch.cat([values, (~mask)[..., None].to(values.dtype)], dim=-1)
        first = tuple(part[None].contiguous() for part in state)
        weights = [weight, k.weight_hh_l0, k.bias_ih_l0, k.bias_hh_l0]
        hidden, _, cell = torch.lstm(padded, first, weights, True, 1, 0.0, self.training, False, True)
        return hidden, (last_real(hidden, mask), cell[0])


class GRUCell(nn.Module):
    """Gated recurrent unit (Cho et al. 2014), with torch's parameters and gate order r, z, n."""

    parts = 1

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.kernel = nn.GRU(input_dim, dim, batch_first=True)

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_ih x + b_ih, for all positions at once; the part of x, where it is the first part of the input."""
        k = self.kernel
        return nn.functional.linear(values, k.weight_ih_l0[:, : values.shape[-1]], k.bias_ih_l0)

    def recur(self, hidden: Tensor) -> Float[Tensor, "rows gates"]:
        """W_hh h + b_hh."""
        return nn.functional.linear(hidden, self.kernel.weight_hh_l0, self.kernel.bias_hh_l0)

    def step(self, inputs: Float[Tensor, "rows gates"], state: CellState) -> CellState:
        """s_t from s_{t-1} and the mapped input."""
        (hidden,) = state
        recurrent = self.recur(hidden)
        r_in, z_in, n_in = inputs.chunk(3, dim=1)
        r_rec, z_rec, n_rec = recurrent.chunk(3, dim=1)
        update = torch.sigmoid(z_in + z_rec)
        new = torch.tanh(n_in + torch.sigmoid(r_in + r_rec) * n_rec)
        return (new + update * (hidden - new),)

    def sequence(self, values: Sequence, state: CellState, mask: Mask) -> tuple[States, CellState]:
        """Hidden states at all positions, and the state after the last real position of each row."""
        hidden = self.kernel(values, state[0][None].contiguous())[0]
        return hidden, (last_real(hidden, mask),)


Cell = LSTMCell | GRUCell


def recurrent_map(cell: Cell) -> tuple[Float[Tensor, "gates dim"], Float[Tensor, " gates"]]:
    """The weight and the bias that a cell applies to the state before."""
    return cell.kernel.weight_hh_l0, cell.kernel.bias_hh_l0


def make_cell(kind: str, input_dim: int, dim: int) -> Cell:
    """The cell that a name stands for: lstm or gru."""
    return {"lstm": LSTMCell, "gru": GRUCell}[kind](input_dim, dim)


def first_state(cell: Cell, like: Tensor) -> CellState:
    """Zeros for each row of `like`."""
    return tuple(like.new_zeros(len(like), cell.dim) for _ in range(cell.parts))


class RecurrentEncoder(Encoder):
    """Reads the source with LSTM or GRU layers, in one direction or two (h_i = [forward; backward]).

    Each sentence is reversed within its own length for the backward direction, and the last state is read at
    its last real position, so that no state depends on padding.
    """

    def __init__(
        self, embed: Embedder, cell: str, dim: int, num_layers: int, bidirectional: bool, dropout: SequenceDropout
    ) -> None:
        super().__init__()
        self.embed, self.dim, self.dropout = embed, dim, dropout
        self.cell_dim = dim // (2 if bidirectional else 1)
        sizes = [embed.dim] + [dim] * (num_layers - 1)
        self.forward_cells = nn.ModuleList(make_cell(cell, size, self.cell_dim) for size in sizes)
        self.backward_cells = nn.ModuleList(make_cell(cell, size, self.cell_dim) for size in sizes if bidirectional)

    def forward(self, src: Side) -> Memory:
        """Encode; the summary holds, for each layer, (hidden,) or (hidden, cell) after the last real position."""
        padding = ~src.mask[..., None]
        # Only what is finite and small can be shut out by a saturated gate, so padding is blanked before it is read.
        values = self.dropout(self.embed(src.values).masked_fill(padding, 0.0))
        summary = []
        for layer, forward_cell in enumerate(self.forward_cells):
            if layer:
                values = self.dropout(values)
            states, final = forward_cell.sequence(values, first_state(forward_cell, values), src.mask)
            if len(self.backward_cells):
                cell = self.backward_cells[layer]
                turned = reverse_sequences(values, src.mask)
                turned, backward_final = cell.sequence(turned, first_state(cell, values), src.mask)
                states = torch.cat([states, reverse_sequences(turned, src.mask)], dim=-1)
                final = tuple(torch.cat(pair, dim=-1) for pair in zip(final, backward_final, strict=True))
            values = states
            summary.append(final)
        return Memory(values.masked_fill(padding, 0.0), src.mask, tuple(summary))
