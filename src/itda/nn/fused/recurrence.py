"""A recurrent layer over time as one function with its own backward.

All inputs are mapped before the loop in one product; weight gradients are one product each after it. The slow twins
are torch's kernels.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from itda.nn.fused.cells import FirstState
from itda.nn.fused.shelf import borrow
from itda.nn.fused.steps import step_products

FIRST = 7  # where the first state stands among the arguments of the function
Maps = tuple[Tensor, Tensor, Tensor, Tensor]  # of the input and of the state before: weight, bias, weight, bias


class _Recurrence(torch.autograd.Function):
    """All states, and those after `ends` steps (None: after the last); no `first` state: zeros."""

    @staticmethod
    def forward(
        ctx: Any, keep: bool, ends: Tensor | None, values: Tensor, in_weight: Tensor, in_bias: Tensor, weight: Tensor,
        bias: Tensor, *first: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        steps, rows, _ = values.shape
        cell, loan = borrow(steps, rows, weight)
        cell.begin(first, weight, bias)
        inputs = step_products(in_weight, steps * rows)
        inputs.write(values.flatten(0, 1), cell.input_bias(in_bias), cell.act.flatten(0, 1))
        for t in range(steps):
            cell.advance(t)
        if keep:
            ctx.cell, ctx.loan, ctx.inputs, ctx.ends = cell, loan, inputs, ends
            ctx.save_for_backward(values)
            ctx.set_materialize_grads(False)
        states = cell.hidden[1:]
        return states.clone() if loan else states, *(_last(part, ends) for part in cell.state)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_states: Tensor | None, *d_last: Tensor | None) -> tuple[Tensor | None, ...]:
        cell, ends, (values,) = ctx.cell, ctx.ends, ctx.saved_tensors
        steps, to_first = len(values), any(ctx.needs_input_grad[FIRST:])
        cell.start_backward()
        given = [None] * steps if d_states is None else d_states.unbind()
        d_hidden = torch.zeros_like(cell.hiddens[0]) if given[-1] is None else given[-1].clone()
        for t in reversed(range(steps)):
            if ends is not None or t == steps - 1:
                _arrive(t + 1, ends, d_last, (d_hidden, *cell.carried))
            if t or to_first:
                d_hidden = cell.retreat(t, d_hidden, given[t - 1] if t else None)
            else:
                cell.enter(t, d_hidden)
        d_values = None
        if ctx.needs_input_grad[2]:
            d_values = ctx.inputs.back(cell.d_act.flatten(0, 1)).view_as(values)
        d_first = cell.first_gradients(d_hidden) if to_first else [None] * len(ctx.needs_input_grad[FIRST:])
        return None, None, d_values, *cell.map_gradients(values), *d_first


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
    first: FirstState,
    maps: Maps,
    ends: Int[Tensor, " rows"] | None = None,
) -> tuple[Float[Tensor, "time rows dim"], FirstState]:
    """Run an LSTM or a GRU over time: all hidden states, and the whole state of each row after `ends` steps.

    `first` is the state before, or () for zeros; `maps` are weight and bias of the input and of the state before, as
    torch's kernels have them. Second derivatives are not offered.
    """
    keep, weight = torch.is_grad_enabled(), maps[2]
    values, *first = (tensor.to(weight.dtype) for tensor in (values, *first))  # they may come from autocast
    with outside_autocast(weight.device):
        states, *last = _Recurrence.apply(keep, ends, values, *maps, *first)
    return states, tuple(last)


def outside_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Compute in the precision of what is given; where autocast is off, a context would cost as much as a step."""
    on = torch.is_autocast_enabled(device.type)
    return torch.autocast(device.type, enabled=False) if on else nullcontext()
