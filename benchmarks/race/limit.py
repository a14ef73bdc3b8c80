"""The machine's limit for a piece of work: each matrix product that it runs, at the rate of that very shape when warm.

`Products` watches what torch is asked for, and counts products by shape. Then each shape is timed by itself, into an
output that is used again and by the quicker of torch's two libraries: the sum of count times best time is what the
work would take if all else were free.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from itda.nn.product import has_alternative, product

aten = torch.ops.aten
BUDGET = 0.004  # seconds for each shape, after one run to warm up
MOST_RUNS, FEWEST_RUNS = 40, 3


@dataclass(frozen=True)
class Product:
    """(rows x inner) times (inner x columns), `batch` times over; whether an operand is read across its layout."""

    batch: int
    rows: int
    inner: int
    columns: int
    turned: tuple[bool, bool]

    @property
    def operations(self) -> int:
        """Count multiplications and additions."""
        return 2 * self.batch * self.rows * self.inner * self.columns


def turned(matrix: Tensor) -> bool:
    """Say whether a matrix lies column by column."""
    return matrix.stride(-1) != 1 and matrix.stride(-2) == 1


def of_matrices(left: Tensor, right: Tensor) -> Product:
    """Describe the product of two matrices, or of two equal batches of matrices."""
    batch = left.shape[0] if left.dim() == 3 else 1
    return Product(batch, left.shape[-2], left.shape[-1], right.shape[-1], (turned(left), turned(right)))


def found_in(name: str, arguments: tuple[Any, ...]) -> list[Product]:
    """Name the matrix products inside one call of a torch operator."""
    match name:
        case "mm" | "bmm":
            return [of_matrices(arguments[0], arguments[1])]
        case "addmm" | "addmm_" | "baddbmm" | "baddbmm_" | "_addmm_activation":
            return [of_matrices(arguments[1], arguments[2])]
        case "mv":
            return [Product(1, *arguments[0].shape, 1, (turned(arguments[0]), False))]
        case "_linear_pointwise":
            values, weight = arguments[:2]
            return [Product(1, values.numel() // values.shape[-1], values.shape[-1], len(weight), (False, True))]
        case "addmv":
            return [Product(1, *arguments[1].shape, 1, (turned(arguments[1]), False))]
        case "_scaled_dot_product_flash_attention_for_cpu":
            return _attention(*arguments[:3])
        case "_scaled_dot_product_flash_attention_for_cpu_backward":
            query, key, value = arguments[1:4]
            forward = _attention(query, key, value)
            return [*forward[:1], *forward, *forward]  # the scores once more, and two products for each of the two
        case "mkldnn_rnn_layer":
            return _lstm(arguments)
        case "mkldnn_rnn_layer_backward":
            return _lstm_backward(arguments)
    return []


def _attention(query: Tensor, key: Tensor, value: Tensor) -> list[Product]:
    batch, rows, dim, columns = query.shape[0] * query.shape[1], query.shape[2], query.shape[3], key.shape[2]
    return [
        Product(batch, rows, dim, columns, (False, True)),
        Product(batch, rows, columns, value.shape[3], (False, False)),
    ]


def _lstm(arguments: tuple[Any, ...]) -> list[Product]:
    """An LSTM layer over time-first values: all inputs at once, then a product for each step."""
    values, _, recurrent = arguments[:3]
    steps, rows, inner = values.shape
    gates, dim = recurrent.shape
    each = Product(1, rows, dim, gates, (False, True))
    return [Product(1, steps * rows, inner, gates, (False, True)), *[each] * steps]


def _lstm_backward(arguments: tuple[Any, ...]) -> list[Product]:
    """The gradients of inputs and of both weights at once, that of the state for each step."""
    values, _, recurrent = arguments[:3]
    steps, rows, inner = values.shape
    gates, dim = recurrent.shape
    positions, each = steps * rows, Product(1, rows, gates, dim, (False, False))
    inputs = Product(1, positions, gates, inner, (False, False))
    weights = [Product(1, gates, positions, width, (True, False)) for width in (inner, dim)]
    return [inputs, *weights, *[each] * steps]


class Products(TorchDispatchMode):
    """Count the products of what runs inside the `with`, from the moment that `keep` is set."""

    def __init__(self, enabled: bool) -> None:
        super().__init__()
        self.enabled, self.keep = enabled, False
        self.counts: Counter[Product] = Counter()
        self.names: Counter[str] = Counter()

    def __enter__(self) -> Products:
        return super().__enter__() if self.enabled else self

    def __exit__(self, *error: Any) -> None:
        if self.enabled:
            super().__exit__(*error)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        """Count, then run; in inference mode operators come undivided (`linear`), so these are taken apart."""
        with self:
            divided = func.decompose(*args, **(kwargs or {}))
        if divided is not NotImplemented:
            return divided
        if self.keep:
            name = func.overloadpacket.__name__
            self.names[name] += 1
            self.counts.update(found_in(name, args))
        return func(*args, **(kwargs or {}))

    def limit(self) -> dict[str, Any]:
        """Time each shape, and give the sum of them all; nothing where nothing was recorded."""
        if not self.enabled:
            return {}
        seconds = {each: best_time(each) for each in self.counts}
        for each in self.counts:  # once more, later: what disturbed the first time is gone
            seconds[each] = min(seconds[each], best_time(each))
        total = sum(seconds[each] * count for each, count in self.counts.items())
        operations = sum(each.operations * count for each, count in self.counts.items())
        return {
            "limit_seconds": total,
            "operations": operations,
            "products": sum(self.counts.values()),
            "shapes": len(self.counts),
            "largest": [_described(p, seconds[p], n) for p, n in self._by_time(seconds)[:12]],
            "operators": dict(self.names.most_common(20)),
        }

    def _by_time(self, seconds: dict[Product, float]) -> list[tuple[Product, int]]:
        return sorted(self.counts.items(), key=lambda item: -seconds[item[0]] * item[1])


def _described(found: Product, seconds: float, count: int) -> dict[str, Any]:
    shape = f"{found.batch} x ({found.rows} x {found.inner} x {found.columns})"
    rate = found.operations / seconds / 1e9
    return {"shape": shape, "count": count, "seconds": round(seconds * count, 4), "gflops": round(rate, 1)}


@torch.inference_mode()
def best_time(wanted: Product) -> float:
    """Time one product, its operands and its output warm: the best of several runs, of either library."""
    left = _operand(wanted.batch, wanted.rows, wanted.inner, wanted.turned[0])
    right = _operand(wanted.batch, wanted.inner, wanted.columns, wanted.turned[1])
    out = torch.empty(wanted.batch, wanted.rows, wanted.columns)
    if wanted.batch > 1:
        return _best(lambda: torch.bmm(left, right, out=out))
    found = _best(lambda: torch.mm(left[0], right[0], out=out[0]))
    if has_alternative(left, right):
        values, weight = left[0].contiguous(), right[0].t().contiguous()
        found = min(found, _best(lambda: product(values, weight)))
    return found


def _best(multiply: Callable[[], object]) -> float:
    multiply()
    best, begun, runs = float("inf"), time.perf_counter(), 0
    while runs < FEWEST_RUNS or (runs < MOST_RUNS and time.perf_counter() - begun < BUDGET):
        start = time.perf_counter()
        multiply()
        best, runs = min(best, time.perf_counter() - start), runs + 1
    return best


def _operand(batch: int, rows: int, columns: int, is_turned: bool) -> Tensor:
    made = torch.randn(batch, columns, rows) if is_turned else torch.randn(batch, rows, columns)
    return made.transpose(1, 2) if is_turned else made
