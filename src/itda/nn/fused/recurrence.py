"""A recurrent layer over time as one function with its own backward, fed what is given or what it says itself.

All given inputs are mapped before the loop in one product; where a row is fed its own prediction, W s_{t-1} + b, that
step maps its inputs again. Gradient flows through what is fed back, as in the lecture's program. Weight gradients are
one product each after the loop. The slow twins are torch's kernels, and the decoder's own `step`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from itda.nn.fused.cells import over_time
from itda.nn.fused.shelf import borrow

FIRST = 10  # where the first state stands among the arguments of the function
Maps = tuple[Tensor, Tensor, Tensor, Tensor]  # of the input and of the state before: weight, bias, weight, bias


@dataclass(frozen=True)
class Feedback:
    """Where a row is not shown what is given, it is fed `weight` s_{t-1} + `bias`; at position 0 all are shown."""

    shown: Bool[Tensor, "time rows"]  # on the CPU, where coins fall: the loop asks at each step
    weight: Float[Tensor, "input dim"]
    bias: Float[Tensor, " input"]


class _Recurrence(torch.autograd.Function):
    """All states, and those after `ends` steps (None: after the last); no `first` state: zeros."""

    @staticmethod
    def forward(
        ctx: Any, keep: bool, shown: Tensor | None, ends: Tensor | None, values: Tensor, in_weight: Tensor,
        in_bias: Tensor, weight: Tensor, bias: Tensor, out_weight: Tensor | None, out_bias: Tensor | None,
        *first: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        steps, rows, _ = values.shape
        cell, loan = borrow(steps, rows, weight)
        cell.begin(first, weight, bias)
        input_bias, turned = cell.input_bias(in_bias), in_weight.t()
        torch.addmm(input_bias, values.flatten(0, 1), turned, out=cell.act.flatten(0, 1))
        own = [0] * steps if shown is None else [0, *(~shown[1:]).sum(1).tolist()]  # rows that are fed what they say
        fed, keeps = values, None
        if any(own):
            fed, keeps = values.clone(), shown[..., None].to(values.device)
        for t in range(steps):
            if own[t]:
                said = torch.addmm(out_bias, cell.hiddens[t], out_weight.t())
                fed[t] = said if own[t] == rows else torch.where(keeps[t], values[t], said)
                torch.addmm(input_bias, fed[t], turned, out=cell.acts[t])
            cell.advance(t)
        if keep:
            ctx.cell, ctx.loan, ctx.own, ctx.keeps, ctx.fed, ctx.ends = cell, loan, own, keeps, fed, ends
            ctx.save_for_backward(in_weight, out_weight)
            ctx.set_materialize_grads(False)
        states = cell.hidden[1:]
        return states.clone() if loan else states, *(_last(part, ends) for part in cell.state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor | None, *d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        cell, own, (in_weight, out_weight) = ctx.cell, ctx.own, ctx.saved_tensors
        cell.start_backward()
        given = [None] * len(own) if d_states is None else d_states.unbind()
        to_first = any(ctx.needs_input_grad[FIRST:])
        d_hidden = torch.zeros_like(cell.hiddens[0]) if given[-1] is None else given[-1].clone()
        d_said = torch.zeros_like(ctx.fed) if any(own) else None
        for t in reversed(range(len(own))):
            if ctx.ends is not None or t == len(own) - 1:
                _arrive(t + 1, ctx.ends, d_last, (d_hidden, *cell.carried))
            if not t and not to_first:
                cell.enter(t, d_hidden)
                break
            d_hidden = cell.retreat(t, d_hidden, given[t - 1] if t else None)
            if own[t]:
                torch.mm(cell.d_acts[t], in_weight, out=d_said[t])
                if own[t] < len(d_hidden):
                    d_said[t].masked_fill_(ctx.keeps[t], 0.0)
                d_hidden.addmm_(d_said[t], out_weight)
        d_values, d_out_weight, d_out_bias = None, None, None
        if ctx.needs_input_grad[3]:
            d_values = cell.d_act @ in_weight
            if d_said is not None:
                d_values[1:].masked_fill_(~ctx.keeps[1:], 0.0)
        if d_said is not None:
            d_out_weight, d_out_bias = over_time(d_said, cell.hidden[:-1]), d_said.sum((0, 1))
        d_weight, d_bias = cell.weight_gradients()
        d_in_bias = cell.d_act.sum((0, 1))
        d_first = cell.first_gradients(d_hidden) if to_first else [None] * len(ctx.needs_input_grad[FIRST:])
        return (
            None, None, None, d_values, over_time(cell.d_act, ctx.fed), d_in_bias, d_weight,
            d_in_bias if d_bias is None else d_bias, d_out_weight, d_out_bias, *d_first,
        )  # fmt: skip


def _last(states: Float[Tensor, "after rows dim"], ends: Tensor | None) -> Float[Tensor, "rows dim"]:
    """Each row's state after its last step; at 0 stands what was there before the first."""
    return states[-1].clone() if ends is None else states[ends, torch.arange(len(ends), device=ends.device)]


def _arrive(steps: int, ends: Tensor | None, d_last: tuple[Tensor | None, ...], carried: tuple[Tensor, ...]) -> None:
    """Add the gradient of the last states of those rows that end after so many steps."""
    for total, arriving in zip(carried, d_last, strict=True):
        if arriving is not None:
            total += arriving if ends is None else arriving * (ends == steps)[:, None]


def recurrence(
    values: Float[Tensor, "time rows input"],
    first: tuple[Float[Tensor, "rows dim"], ...],
    maps: Maps,
    ends: Int[Tensor, " rows"] | None = None,
    feedback: Feedback | None = None,
) -> tuple[Float[Tensor, "time rows dim"], tuple[Float[Tensor, "rows dim"], ...]]:
    """Run an LSTM or a GRU over time: all hidden states, and the whole state of each row after `ends` steps.

    `first` is the state before, or () for zeros. `maps` are weight and bias of the input and of the state before, as torch's kernels have them. Second derivatives
    are not offered.
    """
    keep, weight = torch.is_grad_enabled(), maps[2]
    shown, *out = (feedback.shown, feedback.weight, feedback.bias) if feedback else (None, None, None)
    if any(tensor.dtype != weight.dtype for tensor in (values, *first)):  # computed under autocast
        values, *first = (tensor.to(weight.dtype) for tensor in (values, *first))
    if torch.is_autocast_enabled(weight.device.type):
        with torch.autocast(weight.device.type, enabled=False):
            states, *last = _Recurrence.apply(keep, shown, ends, values, *maps, *out, *first)
    else:  # the context costs as much as a step
        states, *last = _Recurrence.apply(keep, shown, ends, values, *maps, *out, *first)
    return states, tuple(last)
