"""A gated running sum over time: the one thing in a simple recurrence that cannot be done at all positions at once."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

Values = Float[Tensor, "rows time dim"]


class _GatedScan(torch.autograd.Function):
    """The loop without a graph, and its gradient as the same loop backwards."""

    @staticmethod
    def forward(ctx: Any, gates: Tensor, inputs: Tensor) -> Tensor:
        states = torch.empty_like(inputs)
        states[:, 0] = inputs[:, 0]
        for t in range(1, inputs.shape[1]):
            torch.addcmul(inputs[:, t], gates[:, t], states[:, t - 1], out=states[:, t])
        ctx.save_for_backward(gates, states)
        return states

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor]:
        gates, states = ctx.saved_tensors
        d_inputs = grads[0].clone(memory_format=torch.contiguous_format)
        for t in range(gates.shape[1] - 2, -1, -1):
            d_inputs[:, t].addcmul_(gates[:, t + 1], d_inputs[:, t + 1])
        d_gates = torch.zeros_like(gates)
        torch.mul(d_inputs[:, 1:], states[:, :-1], out=d_gates[:, 1:])
        return d_gates, d_inputs


def gated_scan(gates: Values, inputs: Values) -> Values:
    """c_t = gates_t * c_{t-1} + inputs_t for all t, with c_0 = 0; each position costs one multiply-add a number."""
    states: Tensor = _GatedScan.apply(gates, inputs)
    return states
