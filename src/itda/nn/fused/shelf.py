"""Traces that wait for their next use: to make a small one costs about as much as to run through it.

A trace belongs to the graph that was made with it. When that is gone, its `Loan` ends, and the trace goes back to the
shelf; so two graphs that live at the same time never share one, and nothing is to be said by whoever borrows.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.nn.fused.cells import CellTrace, new_trace

SMALL = 1 << 16  # gates of a trace that is kept
SHAPES = 16  # of how many shapes: with one more, all are given up
EACH = 8  # how many of a shape

_idle: dict[Any, list[CellTrace]] = {}


class Loan:
    """Holds a trace, and puts it back when nobody holds the loan."""

    def __init__(self, trace: CellTrace, home: list[CellTrace]) -> None:
        self.trace, self.home = trace, home

    def __del__(self) -> None:
        """Give it back, without the weights."""
        del self.trace.products, self.trace.bias
        if len(self.home) < EACH:
            self.home.append(self.trace)


def borrow(steps: int, rows: int, weight: Float[Tensor, "gates dim"]) -> tuple[CellTrace, Loan | None]:
    """Take a trace from the shelf, or make one; keep the loan for as long as the trace is in use."""
    if steps * rows * len(weight) > SMALL or type(weight) not in (Tensor, nn.Parameter):
        return new_trace(steps, rows, weight), None
    key = (steps, rows, weight.shape, weight.dtype, weight.device, torch.is_inference_mode_enabled())
    if key not in _idle and len(_idle) >= SHAPES:
        _idle.clear()
    home = _idle.setdefault(key, [])
    try:
        trace = home.pop()
    except IndexError:
        trace = new_trace(steps, rows, weight)
    return trace, Loan(trace, home)


def idle() -> int:
    """Count the traces on the shelf."""
    return sum(map(len, _idle.values()))
