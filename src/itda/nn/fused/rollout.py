"""Scheduled sampling of vectors as one function: the decoder's layer over time, its output layer and squared error.

Where a row is not shown what is given, it is fed its own prediction W s_{t-1} + b, and that step maps its inputs
again; gradient flows through what is fed back, as in the lecture's program. The output layer is one product for all
positions, and so is each gradient of a weight. The slow twin is the decoder's own `step`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from itda.nn.fused.cells import FirstState
from itda.nn.fused.recurrence import Maps, outside_autocast
from itda.nn.fused.shelf import borrow
from itda.nn.fused.steps import over_time

FIRST = 10  # where the first state stands among the arguments of the function


class _RolloutError(torch.autograd.Function):
    """Keeps the errors, not the outputs: the gradient is theirs."""

    @staticmethod
    def forward(
        ctx: Any, shown: Tensor, target: Tensor, mask: Tensor | None, values: Tensor, in_weight: Tensor,
        in_bias: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor, out_bias: Tensor, *first: Tensor,
    ) -> Tensor:  # fmt: skip
        steps, rows, _ = values.shape
        cell, loan = borrow(steps, rows, weight)
        cell.begin(first, weight, bias)
        input_bias, input_map, output_map = cell.input_bias(in_bias), in_weight.t(), out_weight.t()
        torch.addmm(input_bias, values.flatten(0, 1), input_map, out=cell.act.flatten(0, 1))
        own = [0, *(rows - count for count in shown.sum(1).tolist()[1:])]  # rows that are fed what they say
        fed, keeps = values, None
        if any(own):
            fed, keeps = values.clone(), shown[..., None].to(values.device)
        inputs = fed.unbind()
        for t in range(steps):
            if own[t]:
                torch.addmm(out_bias, cell.hiddens[t], output_map, out=inputs[t])
                if own[t] < rows:
                    torch.where(keeps[t], values[t], inputs[t], out=inputs[t])
                torch.addmm(input_bias, inputs[t], input_map, out=cell.acts[t])
            cell.advance(t)
        errors = torch.addmm(out_bias, cell.hidden[1:].flatten(0, 1), output_map).sub_(target.flatten(0, 1))
        if mask is not None:
            errors.masked_fill_(~mask.flatten()[:, None], 0.0)
        ctx.cell, ctx.loan, ctx.own, ctx.fed, ctx.keeps = cell, loan, own, fed, keeps
        ctx.save_for_backward(in_weight, out_weight, errors)
        numbers = errors.flatten()
        return torch.dot(numbers, numbers) / len(out_bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        cell, own, (in_weight, out_weight, errors) = ctx.cell, ctx.own, ctx.saved_tensors
        cell.start_backward()
        d_outputs = (errors * (scale * (2 / len(out_weight)))).view(*cell.act.shape[:2], -1)
        d_states = (d_outputs @ out_weight).unbind()
        d_output, d_hidden, to_first = d_outputs.unbind(), d_states[-1], any(ctx.needs_input_grad[FIRST:])
        for t in reversed(range(len(own))):
            if not t and not to_first:
                cell.enter(t, d_hidden)
                break
            d_hidden = cell.retreat(t, d_hidden, d_states[t - 1] if t else None)
            if own[t]:
                d_said = torch.mm(cell.d_acts[t], in_weight)
                if own[t] < len(d_said):
                    d_said.masked_fill_(ctx.keeps[t], 0.0)
                d_hidden.addmm_(d_said, out_weight)
                d_output[t - 1].add_(d_said)
        d_values = None
        if ctx.needs_input_grad[3]:
            d_values = cell.d_act @ in_weight
            if any(own):
                d_values[1:].masked_fill_(~ctx.keeps[1:], 0.0)
        return (
            None, None, None, d_values, *cell.map_gradients(ctx.fed), over_time(d_outputs, cell.hidden[1:]),
            d_outputs.sum((0, 1)), *(cell.first_gradients(d_hidden) if to_first else ()),
        )  # fmt: skip


def rollout_error(
    values: Float[Tensor, "time rows out"],
    shown: Bool[Tensor, "time rows"],
    first: FirstState,
    maps: Maps,
    output: tuple[Float[Tensor, "out dim"], Float[Tensor, " out"]],
    target: Float[Tensor, "time rows out"],
    mask: Bool[Tensor, "time rows"] | None,
) -> Float[Tensor, ""]:
    """Sum |W s_t + b - y_t|^2 over real positions, averaged over the numbers of a vector, as an LSTM or a GRU goes on.

    `shown` (on the CPU, where coins fall) says who is fed `values[t]`; at position 0 all are. `maps` and `first` are
    those of `recurrence`, `mask` is None where all positions are real. Second derivatives are not offered.
    """
    weight = maps[2]
    values, target, *first = (tensor.to(weight.dtype) for tensor in (values, target, *first))
    with outside_autocast(weight.device):
        total: Tensor = _RolloutError.apply(shown, target, mask, values, *maps, *output, *first)
    return total
