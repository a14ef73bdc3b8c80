"""Recurrent cells inside a fused loop: each step written into arrays made once, and its gradient by hand.

A trace holds what one pass over time keeps. Weight gradients are one product after the loop, not one a step.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

sigmoid_backward, tanh_backward = torch.ops.aten.sigmoid_backward, torch.ops.aten.tanh_backward

Rows = Float[Tensor, "rows dim"]


class LSTMTrace:
    """An LSTM over `steps` positions; `act[t]` holds the input side of step t when `advance(t)` is called."""

    def __init__(self, steps: int, first: tuple[Rows, Rows], weight: Float[Tensor, "gates dim"], bias: Tensor) -> None:
        rows, self.dim = first[0].shape
        self.weight = weight
        self.act = weight.new_empty(steps, rows, 4 * self.dim)  # i, f, g, o
        self.hidden = weight.new_empty(steps + 1, rows, self.dim)
        self.cell = weight.new_empty(steps + 1, rows, self.dim)
        self.tanh = weight.new_empty(steps, rows, self.dim)  # of the cell
        self.hidden[0], self.cell[0] = first

    def advance(self, t: int) -> Rows:
        """s_t from s_{t-1}."""
        act, dim, cell = self.act[t], self.dim, self.cell[t + 1]
        act.addmm_(self.hidden[t], self.weight.t())
        act[:, : 2 * dim].sigmoid_()
        act[:, 2 * dim : 3 * dim].tanh_()
        act[:, 3 * dim :].sigmoid_()
        i, f, g, o = act.chunk(4, dim=1)
        torch.mul(f, self.cell[t], out=cell).addcmul_(i, g)
        torch.tanh(cell, out=self.tanh[t])
        return torch.mul(o, self.tanh[t], out=self.hidden[t + 1])

    def start_backward(self) -> None:
        """Make room for the gradients."""
        self.d_act = torch.empty_like(self.act)
        self.d_cell = torch.zeros_like(self.cell[0])

    def retreat(self, t: int, d_hidden: Rows) -> Rows:
        """The gradient of s_{t-1} from that of s_t; that of the input side is left in `d_act[t]`."""
        grad, dim = self.d_act[t], self.dim
        i, f, g, o = self.act[t].chunk(4, dim=1)
        d_cell = tanh_backward(d_hidden * o, self.tanh[t]).add_(self.d_cell)
        torch.mul(d_cell, g, out=grad[:, :dim])
        torch.mul(d_cell, self.cell[t], out=grad[:, dim : 2 * dim])
        torch.mul(d_cell, i, out=grad[:, 2 * dim : 3 * dim])
        torch.mul(d_hidden, self.tanh[t], out=grad[:, 3 * dim :])
        for kernel, start, end in ((sigmoid_backward, 0, 2), (tanh_backward, 2, 3), (sigmoid_backward, 3, 4)):
            part = slice(start * dim, end * dim)
            kernel.grad_input(grad[:, part], self.act[t][:, part], grad_input=grad[:, part])
        self.d_cell = d_cell.mul_(f)
        return grad @ self.weight

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
        rows, self.dim = first[0].shape
        self.weight, self.bias = weight, bias
        self.act = weight.new_empty(steps, rows, 3 * self.dim)  # r, z, n
        self.recurrent = weight.new_empty(steps, rows, 3 * self.dim)  # W s_{t-1} + b
        self.hidden = weight.new_empty(steps + 1, rows, self.dim)
        (self.hidden[0],) = first

    def advance(self, t: int) -> Rows:
        """s_t from s_{t-1}."""
        act, dim, before = self.act[t], self.dim, self.hidden[t]
        recurrent = torch.addmm(self.bias, before, self.weight.t(), out=self.recurrent[t])
        r, z, n = act.chunk(3, dim=1)
        act[:, : 2 * dim].add_(recurrent[:, : 2 * dim]).sigmoid_()
        n.addcmul_(r, recurrent[:, 2 * dim :]).tanh_()
        return torch.lerp(n, before, z, out=self.hidden[t + 1])

    def start_backward(self) -> None:
        """Make room for the gradients."""
        self.d_act = torch.empty_like(self.act)
        self.d_recurrent = torch.empty_like(self.act)

    def retreat(self, t: int, d_hidden: Rows) -> Rows:
        """The gradient of s_{t-1} from that of s_t; that of the input side is left in `d_act[t]`."""
        grad, d_recurrent, dim = self.d_act[t], self.d_recurrent[t], self.dim
        r, z, n = self.act[t].chunk(3, dim=1)
        through = d_hidden * z
        d_n = tanh_backward(d_hidden - through, n)
        grad[:, 2 * dim :] = d_n
        torch.mul(d_n, self.recurrent[t, :, 2 * dim :], out=grad[:, :dim])
        torch.sub(self.hidden[t], n, out=grad[:, dim : 2 * dim]).mul_(d_hidden)
        gates = grad[:, : 2 * dim]
        sigmoid_backward.grad_input(gates, self.act[t][:, : 2 * dim], grad_input=gates)
        d_recurrent[:, : 2 * dim] = gates
        torch.mul(d_n, r, out=d_recurrent[:, 2 * dim :])
        return through.addmm_(d_recurrent, self.weight)

    def weight_gradients(self) -> tuple[Tensor, Tensor]:
        """Of the recurrent weight and its bias."""
        return over_time(self.d_recurrent, self.hidden[:-1]), self.d_recurrent.sum((0, 1))

    def first_gradients(self, d_hidden: Rows) -> tuple[Rows]:
        """Of the first state, after the last `retreat`, which gave `d_hidden`."""
        return (d_hidden,)


CellTrace = LSTMTrace | GRUTrace


def over_time(
    gradients: Float[Tensor, "time rows out"], values: Float[Tensor, "time rows dim"]
) -> Float[Tensor, "out dim"]:
    """The gradient of a weight that was applied at each position, as one product."""
    return gradients.flatten(0, 1).t() @ values.flatten(0, 1)
