"""Recurrent cells and the recurrent encoder.

A cell is split where the time loop needs it: `inputs` maps all positions at once (one large product),
`step` does what depends on the state before. `sequence` is the fast twin: torch's own kernel over time.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence as ListOf

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.batch import Side
from itda.nn.embedding import Embedder, SequenceDropout, reverse_sequences
from itda.nn.fused.recurrence import Maps, recurrence
from itda.nn.interface import Encoder, Memory
from itda.nn.product import is_worthwhile, linear

SMALL = 256  # numbers of an LSTM's state, up to which our loop is the quicker one with MKL too: note 0017
SATURATED = 1e4  # a gate input of this size gives exactly 0 or 1
Sequence = Float[Tensor, "rows time input"]
States = Float[Tensor, "rows time dim"]
Mask = Bool[Tensor, "rows time"]
CellState = tuple[Tensor, ...]  # (hidden,) for a GRU, (hidden, cell) for an LSTM, each (rows, dim)


def last_real(states: States, mask: Mask | None) -> Float[Tensor, "rows dim"]:
    """The state at the last real position of each row (position 0 where none is real)."""
    if mask is None:
        return states[:, -1]
    last = (mask.sum(1) - 1).clamp(min=0)
    return states[torch.arange(len(states), device=states.device), last]


def blank(values: States, mask: Mask | None) -> States:
    """Zeros on padding; None: there is none."""
    return values if mask is None else values.masked_fill(~mask[..., None], 0.0)


class Cell(nn.Module, ABC):
    """s_t = f(s_{t-1}, x_t), split where a loop over time needs it; `parts` says how many tensors a state has."""

    parts: int
    dim: int

    @property
    @abstractmethod
    def input_weight(self) -> Float[Tensor, "gates input"]:
        """What maps the input: cut it where an input has parts that are known at different times."""

    def kernel_maps(self) -> Maps | None:
        """Weight and bias of the input, then of s_{t-1}: what a fused loop needs; None: it knows no such cell."""
        return None

    def recurrent_map(self) -> tuple[Float[Tensor, "gates dim"], Float[Tensor, " gates"]] | None:
        """The weight and the bias that are applied to s_{t-1}, for a loop over mapped inputs; None as above."""
        maps = self.kernel_maps()
        return None if maps is None else maps[2:]

    @abstractmethod
    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """Map x, for all positions at once; or the part of x that is known, where it is the first part of the input."""

    @abstractmethod
    def step(self, inputs: Float[Tensor, "rows gates"], state: CellState) -> CellState:
        """s_t from s_{t-1} and the mapped input."""

    @abstractmethod
    def sequence(self, values: Sequence, state: CellState | None, mask: Mask | None) -> tuple[States, CellState]:
        """Hidden states at all positions, and the whole state after the last real position; no state: zeros."""


class LSTMCell(Cell):
    """Long short-term memory (Hochreiter and Schmidhuber 1997), with torch's parameters and gate order i, f, g, o."""

    parts = 2

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.kernel = nn.LSTM(input_dim, dim, batch_first=True)

    @property
    def input_weight(self) -> Float[Tensor, "gates input"]:
        """W_ih."""
        return self.kernel.weight_ih_l0

    def kernel_maps(self) -> Maps:
        """W_ih, b_ih, W_hh and b_hh."""
        return kernel_maps(self.kernel)

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_ih x + b_ih + b_hh, for all positions at once; the part of x, where it is the first part of the input."""
        k = self.kernel
        return linear(values, k.weight_ih_l0[:, : values.shape[-1]], k.bias_ih_l0 + k.bias_hh_l0)

    def recur(self, inputs: Float[Tensor, "rows gates"], hidden: Tensor) -> Float[Tensor, "rows gates"]:
        """W_ih x + W_hh h + b."""
        return torch.addmm(inputs, hidden, self.kernel.weight_hh_l0.t())

    def step(self, inputs: Float[Tensor, "rows gates"], state: CellState) -> CellState:
        """s_t from s_{t-1} and the mapped input."""
        hidden, cell = state
        i, f, g, o = self.recur(inputs, hidden).chunk(4, dim=1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell

    def sequence(self, values: Sequence, state: CellState | None, mask: Mask | None) -> tuple[States, CellState]:
        """Hidden states at all positions, and the whole state after the last real position of each row.

        The kernel knows no mask and gives c only after padding. An extra input that is 1 on padding closes the
        input gate and opens the forget gate there, exactly (sigmoid saturates to 0 and 1): c stands still.
        """
        k = self.kernel
        ours = len(values) * self.dim <= SMALL or is_worthwhile(len(values), k.weight_hh_l0)
        if is_trained(values) and ours:
            return fused_sequence(self.kernel_maps(), values, state, mask)
        weight = k.weight_ih_l0
        if mask is not None:
            saturate = values.new_zeros(4, self.dim, 1)
            saturate[0], saturate[1] = -SATURATED, SATURATED
            weight = torch.cat([weight, saturate.flatten(0, 1)], dim=1)
            values = torch.cat([values, (~mask)[..., None].to(values.dtype)], dim=-1)
        first = tuple(part[None].contiguous() for part in state or first_state(self, values))
        weights = [weight, k.weight_hh_l0, k.bias_ih_l0, k.bias_hh_l0]
        hidden, _, cell = torch.lstm(values, first, weights, True, 1, 0.0, self.training, False, True)
        return hidden, (last_real(hidden, mask), cell[0])


class GRUCell(Cell):
    """Gated recurrent unit (Cho et al. 2014), with torch's parameters and gate order r, z, n."""

    parts = 1

    def __init__(self, input_dim: int, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.kernel = nn.GRU(input_dim, dim, batch_first=True)

    @property
    def input_weight(self) -> Float[Tensor, "gates input"]:
        """W_ih."""
        return self.kernel.weight_ih_l0

    def kernel_maps(self) -> Maps:
        """W_ih, b_ih, W_hh and b_hh."""
        return kernel_maps(self.kernel)

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_ih x + b_ih, for all positions at once; the part of x, where it is the first part of the input."""
        k = self.kernel
        return linear(values, k.weight_ih_l0[:, : values.shape[-1]], k.bias_ih_l0)

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

    def sequence(self, values: Sequence, state: CellState | None, mask: Mask | None) -> tuple[States, CellState]:
        """Hidden states at all positions, and the state after the last real position of each row.

        To train on a CPU our own loop is quicker than torch's: by a quarter where steps are small, else by little.
        """
        if is_trained(values):
            return fused_sequence(self.kernel_maps(), values, state, mask)
        hidden = self.kernel(values, state[0][None].contiguous() if state else None)[0]
        return hidden, (last_real(hidden, mask),)


def kernel_maps(kernel: nn.RNNBase) -> Maps:
    """The weight and the bias that torch's kernel applies to its input, then those of the state before."""
    return kernel.weight_ih_l0, kernel.bias_ih_l0, kernel.weight_hh_l0, kernel.bias_hh_l0


def is_trained(values: Sequence) -> bool:
    """Whether a gradient is wanted, on a CPU: where our own loop may be quicker than torch's."""
    return values.device.type == "cpu" and torch.is_grad_enabled()


def fused_sequence(
    maps: Maps, values: Sequence, state: CellState | None, mask: Mask | None
) -> tuple[States, CellState]:
    """What a cell's `sequence` gives, by our own loop."""
    ends = None if mask is None else mask.sum(1).clamp(min=1)
    states, last = recurrence(values.transpose(0, 1), state or (), maps, ends)
    return states.transpose(0, 1), last


def first_state(cell: Cell, like: Tensor) -> CellState:
    """Zeros for each row of `like`."""
    return tuple(like.new_zeros(len(like), cell.dim) for _ in range(cell.parts))


class RecurrentEncoder(Encoder):
    """Reads the source with recurrent layers, in one direction or two (h_i = [forward; backward]).

    The first layers read in both directions, as many as there are `backward_cells`; the rest forwards. From the layer
    `residual_from` on (counted from 1; 0: none) a layer's input is added to its output (Wu et al. 2016, GNMT,
    arXiv 1609.08144: one layer in both directions, sums from the third on).

    Each sentence is reversed within its own length for the backward direction, and the last state is read at
    its last real position, so that no state depends on padding.
    """

    def __init__(
        self,
        embed: Embedder,
        forward_cells: ListOf[Cell],
        backward_cells: ListOf[Cell],
        dropout: SequenceDropout,
        residual_from: int = 0,
    ) -> None:
        super().__init__()
        self.embed, self.dropout, self.residual_from = embed, dropout, residual_from
        self.forward_cells, self.backward_cells = nn.ModuleList(forward_cells), nn.ModuleList(backward_cells)
        self.dim = forward_cells[-1].dim * (2 if len(backward_cells) == len(forward_cells) else 1)

    def forward(self, src: Side) -> Memory:
        """Encode; the summary holds, for each layer, (hidden,) or (hidden, cell) after the last real position."""
        mask = None if src.whole else src.mask
        # Only what is finite and small can be shut out by a saturated gate, so padding is blanked before it is read.
        values = self.dropout(blank(self.embed(src.values), mask))
        summary = []
        for layer, forward_cell in enumerate(self.forward_cells):
            below = values
            if layer:
                values = self.dropout(values)
            states, final = forward_cell.sequence(values, None, mask)
            if layer < len(self.backward_cells):
                cell = self.backward_cells[layer]
                turned = reverse_sequences(values, src.mask)
                turned, backward_final = cell.sequence(turned, None, mask)
                states = torch.cat([states, reverse_sequences(turned, src.mask)], dim=-1)
                final = tuple(torch.cat(pair, dim=-1) for pair in zip(final, backward_final, strict=True))
            values = states + below if 0 < self.residual_from <= layer + 1 else states
            summary.append(final)
        return Memory(blank(values, mask), src.mask, tuple(summary))
