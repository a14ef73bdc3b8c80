"""Recurrent cells inside a fused loop: each step written into arrays made once, and its gradient by hand.

A trace holds what one pass over time keeps: arrays, and the views of them that a step works on. To make them costs as
much as the steps where those are small, so a trace may be used again (see `itda.nn.fused.shelf`): `begin` says for
what. Weight gradients are one product after the loop, not one a step. What the gradient of a state is multiplied by on
its way to the gates (g sigma'(i), and so on) is known before the way back begins: it is computed for a block of steps
at a time, into the array where the gates' gradient will stand, and a step is left with a few products. Of small steps
a block holds many, which saves calls; of large ones one, which stays in cache.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from itda.nn.fused.steps import over_time, step_products

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
BLOCK = 1 << 15  # numbers of a state that a block may hold
MANY = 1 << 12  # numbers from which on four quick calls are quicker than a slow one

Rows = Float[Tensor, "rows dim"]
Steps = Float[Tensor, "time ..."]
FirstState = tuple[Rows, ...]  # empty: zeros


class LSTMTrace:
    """An LSTM over `steps` positions; `act[t]` holds the input side of step t when `advance(t)` is called."""

    def __init__(self, steps: int, rows: int, weight: Float[Tensor, "gates dim"]) -> None:
        dim = weight.shape[1]
        self.act = weight.new_empty(steps, rows, 4 * dim)
        self.hidden = weight.new_empty(steps + 1, rows, dim)
        self.cell = weight.new_empty(steps + 1, rows, dim)
        self.tanh = weight.new_empty(steps, rows, dim)  # of the cell
        self.acts, self.hiddens, self.cells = self.act.unbind(), self.hidden.unbind(), self.cell.unbind()
        i, f, g, o = self.act.chunk(4, dim=2)
        # Where calls cost more than numbers, all four go through one sigmoid, and the tanh of one is kept elsewhere.
        small = block_of(self.tanh[0]) > 1
        new = torch.empty_like(self.tanh) if small else g
        sigmoids = zip(
            *(part.unbind() for part in ((self.act,) if small else (self.act[..., : 2 * dim], o))), strict=True
        )
        self.gates = i, f, new, o
        self.each = list(zip(sigmoids, by_step(self.act, i, f, g, new, o, self.tanh), strict=True))
        self.state, self.before = (self.hidden, self.cell), (self.hiddens[0], self.cells[0])
        self.blocks: list[LSTMBlock] = []

    def begin(self, first: FirstState, weight: Float[Tensor, "gates dim"], bias: Float[Tensor, " gates"]) -> None:
        """Use these weights, from this state on, or from zeros."""
        self.products, self.bias, self.from_zeros = step_products(weight, len(self.hiddens[0])), bias, not first
        for number, part in enumerate(self.before):
            part.copy_(first[number]) if first else part.zero_()

    def input_bias(self, bias: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """What the input side adds: both biases."""
        return bias + self.bias

    def advance(self, t: int) -> Rows:
        """s_t from s_{t-1}."""
        sigmoids, (act, i, f, g, new, o, tanh) = self.each[t]
        if t or not self.from_zeros:
            self.products.add(self.hiddens[t], act)
        tanh_of(g, new)
        for gates in sigmoids:
            gates.sigmoid_()
        cell = torch.mul(f, self.cells[t], out=self.cells[t + 1]).addcmul_(i, new)
        tanh_of(cell, tanh)
        return torch.mul(o, tanh, out=self.hiddens[t + 1])

    def start_backward(self) -> None:
        """Make room for the gradients."""
        if not self.blocks:
            self.d_act, self.d_cell = torch.empty_like(self.act), torch.empty_like(self.cells[0])
            self.d_acts = self.d_act.unbind()
            self.carried = (self.d_cell,)  # what goes back from step to step beside d_hidden
            self.size = block_of(self.d_cell)
            slope = torch.empty_like(self.tanh[: self.size])
            cuts = in_blocks(self.size, *self.gates, self.cell[:-1], self.tanh, self.d_act)
            self.blocks = [LSTMBlock(slope[: len(arrays[0])], *arrays) for arrays in cuts]
        self.d_cell.zero_()
        self.prepared = len(self.each)

    def enter(self, t: int, d_hidden: Rows) -> None:
        """From the gradient of s_t to that of the input side, which is left in `d_act[t]`."""
        if t < self.prepared:
            self.prepared = t - t % self.size
            self.factors = self.blocks[t // self.size].prepare()
        d_input_forget_new, d_output, slope, _ = self.factors[t - self.prepared]
        d_cell = self.d_cell.addcmul_(d_hidden, slope)
        d_input_forget_new.mul_(d_cell.unsqueeze(1))
        d_output.mul_(d_hidden)

    def retreat(self, t: int, d_hidden: Rows, onto: Rows | None = None) -> Rows:
        """The gradient of s_{t-1} from that of s_t, added to `onto`; that of the input side is left in `d_act[t]`."""
        self.enter(t, d_hidden)
        self.d_cell.mul_(self.factors[t - self.prepared][3])
        return self.products.back(self.d_acts[t], onto)

    def hand_over(self) -> Float[Tensor, "time rows gates"]:
        """Give `d_act` away: the next way back makes room anew."""
        self.blocks = []
        return self.d_act

    def weight_gradients(self) -> tuple[Tensor, None]:
        """Of the recurrent weight, and of its bias, which is part of the input side."""
        return over_time(self.d_act, self.hidden[:-1]), None

    def map_gradients(self, values: Float[Tensor, "time rows input"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of weight and bias of the input, which read `values`, and of the state before."""
        d_bias = self.d_act.sum((0, 1))
        return over_time(self.d_act, values), d_bias, self.weight_gradients()[0], d_bias

    def first_gradients(self, d_hidden: Rows) -> tuple[Rows, Rows]:
        """Of the first state, after the last `retreat`, which gave `d_hidden`."""
        return d_hidden, self.d_cell.clone()


class LSTMBlock:
    """Some steps on the way back: what d_cell is multiplied by for i, f, g, and d_hidden for o and for d_cell."""

    def __init__(
        self, slope: Steps, i: Steps, f: Steps, g: Steps, o: Steps, cell: Steps, tanh: Steps, d_act: Steps
    ) -> None:
        self.slope, self.read, self.d_gates = slope, (i, f, g, o, cell, tanh), d_act.chunk(4, dim=2)
        self.factors = by_step(d_act.unflatten(2, (4, -1))[:, :, :3], self.d_gates[3], slope, f)

    def prepare(self) -> list[tuple[Tensor, ...]]:
        """Write the factors, where the gradients of the gates will stand."""
        i, f, g, o, cell, tanh = self.read
        d_input, d_forget, d_new, d_output = self.d_gates
        sigmoid_backward.grad_input(g, i, grad_input=d_input)
        sigmoid_backward.grad_input(cell, f, grad_input=d_forget)
        tanh_backward.grad_input(i, g, grad_input=d_new)
        sigmoid_backward.grad_input(tanh, o, grad_input=d_output)
        tanh_backward.grad_input(o, tanh, grad_input=self.slope)
        return self.factors


class GRUTrace:
    """A GRU over `steps` positions; `act[t]` holds the input side of step t when `advance(t)` is called."""

    def __init__(self, steps: int, rows: int, weight: Float[Tensor, "gates dim"]) -> None:
        dim = weight.shape[1]
        self.act = weight.new_empty(steps, rows, 3 * dim)
        self.recurrent = weight.new_empty(steps, rows, 3 * dim)  # W s_{t-1} + b
        self.hidden = weight.new_empty(steps + 1, rows, dim)
        self.acts, self.hiddens = self.act.unbind(), self.hidden.unbind()
        self.gates = self.act.chunk(3, dim=2)  # r, z, n
        self.recurrent_new = self.recurrent[..., 2 * dim :]
        gates, recurrent_gates = self.act[..., : 2 * dim], self.recurrent[..., : 2 * dim]
        self.each = by_step(self.recurrent, gates, recurrent_gates, self.recurrent_new, *self.gates)
        self.state, self.before = (self.hidden,), (self.hiddens[0],)
        self.blocks: list[GRUBlock] = []

    def begin(self, first: FirstState, weight: Float[Tensor, "gates dim"], bias: Float[Tensor, " gates"]) -> None:
        """Use these weights, from this state on, or from zeros."""
        self.products, self.bias, self.from_zeros = step_products(weight, len(self.hiddens[0])), bias, not first
        for number, part in enumerate(self.before):
            part.copy_(first[number]) if first else part.zero_()

    def input_bias(self, bias: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """What the input side adds: its own bias."""
        return bias

    def advance(self, t: int) -> Rows:
        """s_t from s_{t-1}."""
        recurrent, gates, recurrent_gates, recurrent_new, r, z, n = self.each[t]
        before = self.hiddens[t]
        if t or not self.from_zeros:
            self.products.write(before, self.bias, recurrent)
        else:
            recurrent.copy_(self.bias)
        gates.add_(recurrent_gates).sigmoid_()
        tanh_of(n.addcmul_(r, recurrent_new), n)
        return torch.lerp(n, before, z, out=self.hiddens[t + 1])

    def start_backward(self) -> None:
        """Make room for the gradients."""
        if not self.blocks:
            self.d_act, self.d_recurrent = torch.empty_like(self.act), torch.empty_like(self.act)
            self.d_acts, self.d_recurrents = self.d_act.unbind(), self.d_recurrent.unbind()
            self.carried: tuple[Rows, ...] = ()  # nothing goes back from step to step beside d_hidden
            self.size = block_of(self.hiddens[0])
            read = (*self.gates, self.hidden[:-1], self.recurrent_new)
            cuts = in_blocks(self.size, *read, self.d_act, self.d_recurrent)
            self.blocks = [GRUBlock(*arrays) for arrays in cuts]
        self.prepared = len(self.each)

    def enter(self, t: int, d_hidden: Rows) -> None:
        """From the gradient of s_t to that of the input side, which is left in `d_act[t]`."""
        if t < self.prepared:
            self.prepared = t - t % self.size
            self.factors = self.blocks[t // self.size].prepare()
        d_act, d_recurrent, _ = self.factors[t - self.prepared]
        d_gates = d_hidden.unsqueeze(1)
        d_act.mul_(d_gates)
        d_recurrent.mul_(d_gates)

    def retreat(self, t: int, d_hidden: Rows, onto: Rows | None = None) -> Rows:
        """The gradient of s_{t-1} from that of s_t, added to `onto`; that of the input side is left in `d_act[t]`."""
        self.enter(t, d_hidden)
        update = self.factors[t - self.prepared][2]
        through = torch.mul(d_hidden, update) if onto is None else torch.addcmul(onto, d_hidden, update)
        return self.products.add_back(self.d_recurrents[t], through)

    def hand_over(self) -> Float[Tensor, "time rows gates"]:
        """Give `d_act` away: the next way back makes room anew."""
        self.blocks = []
        return self.d_act

    def weight_gradients(self) -> tuple[Tensor, Tensor]:
        """Of the recurrent weight and its bias."""
        return over_time(self.d_recurrent, self.hidden[:-1]), self.d_recurrent.sum((0, 1))

    def map_gradients(self, values: Float[Tensor, "time rows input"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of weight and bias of the input, which read `values`, and of the state before."""
        return over_time(self.d_act, values), self.d_act.sum((0, 1)), *self.weight_gradients()

    def first_gradients(self, d_hidden: Rows) -> tuple[Rows]:
        """Of the first state, after the last `retreat`, which gave `d_hidden`."""
        return (d_hidden,)


class GRUBlock:
    """Some steps on the way back: what d_hidden is multiplied by for each gate, on both sides."""

    def __init__(
        self, r: Steps, z: Steps, n: Steps, before: Steps, recurrent_new: Steps, d_act: Steps, d_recurrent: Steps
    ) -> None:
        self.read, self.d_act, self.d_recurrent = (r, z, n, before, recurrent_new), d_act, d_recurrent
        self.d_gates, self.d_recurrent_new = d_act.chunk(3, dim=2), d_recurrent.chunk(3, dim=2)[2]
        self.factors = by_step(d_act.unflatten(2, (3, -1)), d_recurrent.unflatten(2, (3, -1)), z)

    def prepare(self) -> list[tuple[Tensor, ...]]:
        """Write the factors, where the gradients of the gates will stand."""
        r, z, n, before, recurrent_new = self.read
        d_reset, d_update, d_new = self.d_gates
        tanh_backward.grad_input(1 - z, n, grad_input=d_new)
        sigmoid_backward.grad_input(d_new * recurrent_new, r, grad_input=d_reset)
        sigmoid_backward.grad_input(before - n, z, grad_input=d_update)
        self.d_recurrent.copy_(self.d_act)
        self.d_recurrent_new.mul_(r)
        return self.factors


CellTrace = LSTMTrace | GRUTrace


def new_trace(steps: int, rows: int, weight: Float[Tensor, "gates dim"]) -> CellTrace:
    """Make room for the cell that has so many gates."""
    lstm = len(weight) == 4 * weight.shape[1]
    return LSTMTrace(steps, rows, weight) if lstm else GRUTrace(steps, rows, weight)


def trace_cell(steps: int, first: tuple[Rows, ...], weight: Tensor, bias: Tensor) -> CellTrace:
    """Make a trace that begins with this state."""
    trace = new_trace(steps, len(first[0]), weight)
    trace.begin(first, weight, bias)
    return trace


def by_step(*arrays: Steps) -> list[tuple[Tensor, ...]]:
    """The views of each step."""
    return list(zip(*(array.unbind() for array in arrays), strict=True))


def in_blocks(size: int, *arrays: Steps) -> Iterator[tuple[Steps, ...]]:
    """Cut arrays over time into blocks of so many steps."""
    return zip(*(array.split(size) for array in arrays), strict=True)


def block_of(state: Rows) -> int:
    """How many steps a block holds."""
    return max(1, BLOCK // state.numel())


def tanh_of(values: Tensor, out: Tensor) -> Tensor:
    """Write tanh(x), where it is many 32-bit numbers on a CPU as 2 sigmoid(2x) - 1.

    torch's tanh took nine times as long there as its sigmoid did; the error is 2e-7 instead of 3e-8.
    """
    if values.numel() < MANY or values.dtype is not torch.float32 or values.device.type != "cpu":
        return torch.tanh(values, out=out)
    return torch.mul(values, 2.0, out=out).sigmoid_().mul_(2.0).sub_(1.0)
