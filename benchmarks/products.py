"""The physical limit of a computation: its matrix products, each at the rate measured warm for that very shape."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from itda.nn.product import linear

Shape = tuple[int, int, int, int]  # batches, rows, inner, columns
TIMED = 0.97  # of the operations; the rest is taken at the mean rate of these
SECONDS = 0.02  # for each shape, at the least two runs


class Products(TorchDispatchMode):
    """While it is open, counts the matrix products of this thread by their shapes."""

    def __init__(self) -> None:
        super().__init__()
        self.shapes: Counter[Shape] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Count, then compute."""
        name = function.overloadpacket.__name__
        if name in ("mm", "bmm", "addmm", "baddbmm", "addmm_", "baddbmm_"):
            left, right = args[-2:] if name.startswith(("mm", "bmm")) else args[1:3]
            batches = len(left) if left.dim() == 3 else 1
            self.shapes[batches, left.shape[-2], left.shape[-1], right.shape[-1]] += 1
        elif name == "_linear_pointwise":
            values, weight = args[:2]
            self.shapes[1, values.numel() // values.shape[-1], values.shape[-1], len(weight)] += 1
        elif name.startswith("_scaled_dot_product"):
            query, key = args[:2]
            batches, rows, inner, columns = (
                query.shape[0] * query.shape[1],
                query.shape[2],
                query.shape[3],
                key.shape[2],
            )
            self.shapes[batches, rows, inner, columns] += 1
            self.shapes[batches, rows, columns, inner] += 1
        elif name == "mkldnn_rnn_layer":
            values, kernel, recurrent = args[:3]
            steps = values.shape[0] * values.shape[1] // args[4].shape[-2]
            rows = args[4].shape[-2]
            self.shapes[1, steps * rows, kernel.shape[1], kernel.shape[0]] += 1
            self.shapes[1, rows, recurrent.shape[1], recurrent.shape[0]] += steps
        return function(*args, **(kwargs or {}))

    @property
    def operations(self) -> float:
        """Multiplications and additions."""
        return sum(2.0 * b * m * k * n * count for (b, m, k, n), count in self.shapes.items())


def count(work: Callable[[], object]) -> Products:
    """Run something once, and give the products in it."""
    with Products() as products:
        work()
    return products


def limit(products: Products) -> dict[str, float]:
    """Time the products alone, warm, with this thread's settings: seconds, operations and their rate."""
    cost = {shape: 2.0 * shape[0] * shape[1] * shape[2] * shape[3] * n for shape, n in products.shapes.items()}
    whole, timed, seconds = sum(cost.values()), 0.0, 0.0
    for shape in sorted(cost, key=lambda one: -cost[one]):
        if timed >= TIMED * whole:
            break
        seconds += products.shapes[shape] * _time(shape)
        timed += cost[shape]
    seconds *= whole / timed if timed else 1.0
    return {"seconds": seconds, "gflop": whole / 1e9, "gflop_per_second": whole / 1e9 / seconds if seconds else 0.0}


def _time(shape: Shape) -> float:
    """The best time of one product, by the quicker library; its operands are as a linear layer has them."""
    batches, rows, inner, columns = shape
    left, right = torch.randn(batches, rows, inner), torch.randn(batches, columns, inner)
    out = torch.empty(batches, rows, columns)
    if batches > 1:
        return _best(lambda: torch.bmm(left, right.transpose(1, 2), out=out))
    one, weight, answer = left[0], right[0], out[0]
    return min(_best(lambda: torch.mm(one, weight.t(), out=answer)), _best(lambda: linear(one, weight, None)))


@torch.inference_mode()
def _best(product: Callable[[], object]) -> float:
    """The best of some runs."""
    best, spent, runs = float("inf"), 0.0, 0
    while spent < SECONDS or runs < 3:
        start = time.perf_counter()
        product()
        took = time.perf_counter() - start
        best, spent, runs = min(best, took), spent + took, runs + 1
    return best
