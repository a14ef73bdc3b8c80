"""Recurrent cells inside a fused loop: each step written into arrays made once, and its gradient by hand.

A trace holds what one pass over time keeps. Weight gradients are one product after the loop, not one a step. What the
gradient of a state is multiplied by on its way to the gates (g sigma'(i), and so on) is known before the way back
begins: it is computed for a block of steps at a time, into the array where the gates' gradient will stand, and a step
is left with a few products. Of small steps a block holds many, which saves calls; of large ones one, which stays in
cache.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from itda.nn.fused.steps import over_time, step_products

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward
BLOCK = 1 << 15  # numbers of a state that a block may hold
MANY = 1 << 12  # numbers from which on four quick calls are quicker than a slow one

Rows = Float[Tensor, "rows dim"]


class LSTMTrace:
    """An LSTM over `steps` positions; `act[t]` holds the input side of step t when `advance(t)` is called."""

    def __init__(self, steps: int, first: tuple[Rows, Rows], weight: Float[Tensor, "gates dim"], bias: Tensor) -> None:
        rows, dim = first[0].shape
        self.products, self.bias = step_products(weight, rows), bias
        self.act = weight.new_empty(steps, rows, 4 * dim)
        self.hidden = weight.new_empty(steps + 1, rows, dim)
        self.cell = weight.new_empty(steps + 1, rows, dim)
        self.tanh = weight.new_empty(steps, rows, dim)  # of the cell
        self.hiddens, self.cells = self.hidden.unbind(), self.cell.unbind()
        self.hiddens[0].copy_(first[0])
        self.cells[0].copy_(first[1])
        self.gates = i, f, g, o = self.act.chunk(4, dim=2)
        arrays = (self.act, self.act[..., : 2 * dim], i, f, g, o, self.tanh)
        self.each = list(zip(*(array.unbind() for array in arrays), strict=True))
        self.state = (self.hidden, self.cell)

    def input_bias(self, bias: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """What the input side adds: both biases."""
        return bias + self.bias

    def advance(self, t: int) -> Rows:
        """s_t from s_{t-1}."""
        act, input_forget, i, f, g, o, tanh = self.each[t]
        self.products.add(self.hiddens[t], act)
        input_forget.sigmoid_()
        tanh_of(g, g)
        o.sigmoid_()
        cell = torch.mul(f, self.cells[t], out=self.cells[t + 1]).addcmul_(i, g)
        tanh_of(cell, tanh)
        return torch.mul(o, tanh, out=self.hiddens[t + 1])

    def start_backward(self) -> None:
        """Make room for the gradients."""
        self.d_act = torch.empty_like(self.act)
        self.d_cell = torch.zeros_like(self.cells[0])
        self.carried = (self.d_cell,)  # what goes back from step to step beside d_hidden
        self.prepared = len(self.each)

    def retreat(self, t: int, d_hidden: Rows, onto: Rows | None = None) -> Rows:
        """The gradient of s_{t-1} from that of s_t, added to `onto`; that of the input side is left in `d_act[t]`."""
        if t < self.prepared:
            self._prepare()
        d_act, d_input_forget_new, d_output, slope, forget = self.slopes[t - self.prepared]
        d_cell = self.d_cell.addcmul_(d_hidden, slope)
        d_input_forget_new.mul_(d_cell.unsqueeze(1))
        d_output.mul_(d_hidden)
        d_cell.mul_(forget)
        return self.products.back(d_act, onto)

    def _prepare(self) -> None:
        """Write the factors of the steps before those that are prepared: of d_cell for i, f, g, of d_hidden for o."""
        end, self.prepared = self.prepared, max(0, self.prepared - block_of(self.d_cell))
        i, f, g, o, cell, tanh, d_act = (
            array[self.prepared : end] if len(array) > end - self.prepared else array
            for array in (*self.gates, self.cell, self.tanh, self.d_act)
        )
        d_input, d_forget, d_new, d_output = d_act.chunk(4, dim=2)
        sigmoid_backward.grad_input(g, i, grad_input=d_input)
        sigmoid_backward.grad_input(cell, f, grad_input=d_forget)
        tanh_backward.grad_input(i, g, grad_input=d_new)
        sigmoid_backward.grad_input(tanh, o, grad_input=d_output)
        slope = tanh_backward(o, tanh)  # from d_hidden to d_cell
        d_input_forget_new = d_act.unflatten(2, (4, -1))[:, :, :3]
        arrays = (d_act, d_input_forget_new, d_output, slope, f)
        self.slopes = list(zip(*(array.unbind() for array in arrays), strict=True))

    def weight_gradients(self) -> tuple[Tensor, None]:
        """Of the recurrent weight, and of its bias, which is part of the input side."""
        return over_time(self.d_act, self.hidden[:-1]), None

    def first_gradients(self, d_hidden: Rows) -> tuple[Rows, Rows]:
        """Of the first state, after the last `retreat`, which gave `d_hidden`."""
        return d_hidden, self.d_cell


class GRUTrace:
    """A GRU over `steps` positions; `act[t]` holds the input side of step t when `advance(t)` is called."""

    def __init__(
        self, steps: int, first: tuple[Rows], weight: Float[Tensor, "gates dim"], bias: Float[Tensor, " gates"]
    ) -> None:
        rows, dim = first[0].shape
        self.products, self.bias = step_products(weight, rows), bias
        self.act = weight.new_empty(steps, rows, 3 * dim)
        self.recurrent = weight.new_empty(steps, rows, 3 * dim)  # W s_{t-1} + b
        self.hidden = weight.new_empty(steps + 1, rows, dim)
        self.hiddens = self.hidden.unbind()
        self.hiddens[0].copy_(first[0])
        self.gates = self.act.chunk(3, dim=2)  # r, z, n
        self.recurrent_new = self.recurrent[..., 2 * dim :]
        gates, recurrent_gates = self.act[..., : 2 * dim], self.recurrent[..., : 2 * dim]
        arrays = (self.recurrent, gates, recurrent_gates, self.recurrent_new, *self.gates)
        self.each = list(zip(*(array.unbind() for array in arrays), strict=True))
        self.state = (self.hidden,)

    def input_bias(self, bias: Float[Tensor, " gates"]) -> Float[Tensor, " gates"]:
        """What the input side adds: its own bias."""
        return bias

    def advance(self, t: int) -> Rows:
        """s_t from s_{t-1}."""
        recurrent, gates, recurrent_gates, recurrent_new, r, z, n = self.each[t]
        before = self.hiddens[t]
        self.products.write(before, self.bias, recurrent)
        gates.add_(recurrent_gates).sigmoid_()
        tanh_of(n.addcmul_(r, recurrent_new), n)
        return torch.lerp(n, before, z, out=self.hiddens[t + 1])

    def start_backward(self) -> None:
        """Make room for the gradients."""
        self.d_act = torch.empty_like(self.act)
        self.d_recurrent = torch.empty_like(self.act)
        self.carried: tuple[Rows, ...] = ()  # nothing goes back from step to step beside d_hidden
        self.prepared = len(self.each)

    def retreat(self, t: int, d_hidden: Rows, onto: Rows | None = None) -> Rows:
        """The gradient of s_{t-1} from that of s_t, added to `onto`; that of the input side is left in `d_act[t]`."""
        if t < self.prepared:
            self._prepare()
        d_act, d_recurrent, d_flat, update = self.slopes[t - self.prepared]
        d_act.mul_(d_hidden.unsqueeze(1))
        d_recurrent.mul_(d_hidden.unsqueeze(1))
        through = torch.mul(d_hidden, update) if onto is None else torch.addcmul(onto, d_hidden, update)
        return self.products.add_back(d_flat, through)

    def _prepare(self) -> None:
        """Write the factors of the steps before those that are prepared, all of d_hidden."""
        end, self.prepared = self.prepared, max(0, self.prepared - block_of(self.hiddens[0]))
        r, z, n, before, recurrent_new, d_act, d_recurrent = (
            array[self.prepared : end] if len(array) > end - self.prepared else array
            for array in (*self.gates, self.hidden, self.recurrent_new, self.d_act, self.d_recurrent)
        )
        d_reset, d_update, d_new = d_act.chunk(3, dim=2)
        tanh_backward.grad_input(1 - z, n, grad_input=d_new)
        sigmoid_backward.grad_input(d_new * recurrent_new, r, grad_input=d_reset)
        sigmoid_backward.grad_input(before - n, z, grad_input=d_update)
        d_recurrent.copy_(d_act)
        d_recurrent.chunk(3, dim=2)[2].mul_(r)
        arrays = (d_act.unflatten(2, (3, -1)), d_recurrent.unflatten(2, (3, -1)), d_recurrent, z)
        self.slopes = list(zip(*(array.unbind() for array in arrays), strict=True))

    def weight_gradients(self) -> tuple[Tensor, Tensor]:
        """Of the recurrent weight and its bias."""
        return over_time(self.d_recurrent, self.hidden[:-1]), self.d_recurrent.sum((0, 1))

    def first_gradients(self, d_hidden: Rows) -> tuple[Rows]:
        """Of the first state, after the last `retreat`, which gave `d_hidden`."""
        return (d_hidden,)


CellTrace = LSTMTrace | GRUTrace


def trace_cell(steps: int, first: tuple[Rows, ...], weight: Tensor, bias: Tensor) -> CellTrace:
    """Make the trace of the cell whose state has these parts."""
    return LSTMTrace(steps, first, weight, bias) if len(first) == 2 else GRUTrace(steps, first, weight, bias)


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
