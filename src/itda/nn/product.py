"""Products with a weight, by the quicker of the two libraries that torch brings along.

On a processor with AVX-512 that Intel did not make, MKL, which torch asks for its products, keeps to AVX2 and reaches
less than half of what the processor can; oneDNN, which torch has too, does not (docs/design/0015). Under autocast, and
everywhere else, the product is torch's own.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

CPUINFO = Path("/proc/cpuinfo")
WORTHWHILE = 1 << 19  # multiplications from which on oneDNN is the quicker one
BLOCK = 512  # rows that are laid out anew at a time: in cache, and in memory that was just used


def linear(
    values: Float[Tensor, "*lead input"],
    weight: Float[Tensor, "output input"],
    bias: Float[Tensor, " output"] | None = None,
) -> Float[Tensor, "*lead output"]:
    """W x + b for each vector."""
    if not _quicker(values, weight):
        return nn.functional.linear(values, weight, bias)
    weight = weight.contiguous()
    return _Linear.apply(values, weight, bias) if torch.is_grad_enabled() else product(values, weight, bias)


def linear_relu(
    values: Float[Tensor, "*lead input"],
    weight: Float[Tensor, "output input"],
    bias: Float[Tensor, " output"] | None = None,
) -> Float[Tensor, "*lead output"]:
    """max(W x + b, 0) for each vector, while it is in the cache where nobody asks for a gradient."""
    if torch.is_grad_enabled() or not _quicker(values, weight):
        return nn.functional.relu(linear(values, weight, bias))
    return product(values, weight.contiguous(), bias, "relu")


def linear_plus(
    values: Float[Tensor, "*lead input"],
    weight: Float[Tensor, "output input"],
    bias: Float[Tensor, " output"] | None,
    other: Float[Tensor, "*lead output"],
) -> Float[Tensor, "*lead output"]:
    """W x + b + y for each vector and its y, likewise."""
    if torch.is_grad_enabled() or not _quicker(values, weight):
        return other + linear(values, weight, bias)
    values, weight, other = values.contiguous(), weight.contiguous(), other.contiguous()
    return torch.ops.mkldnn._linear_pointwise.binary(values, other, weight, bias, "add")


def product(values: Tensor, weight: Tensor, bias: Tensor | None = None, then: str = "none") -> Tensor:
    """W x + b by oneDNN, and `then` perhaps relu, without a gradient, where `has_alternative` says that it can.

    Both factors are laid out row by row: others it would multiply a thousand times slower.
    """
    assert weight.is_contiguous()
    return torch.ops.mkldnn._linear_pointwise(values.contiguous(), weight, bias, then, [], "")


def weight_gradient(
    grad: Float[Tensor, "rows output"], values: Float[Tensor, "rows input"]
) -> Float[Tensor, "output input"]:
    """The gradient of a weight from that of W x: the sum, over the rows, of grad x^T."""
    if not is_worthwhile(grad.shape[1], values):
        return grad.t() @ values
    total = values.new_zeros(grad.shape[1], values.shape[1])
    for some_grad, some in zip(grad.split(BLOCK), values.split(BLOCK), strict=True):
        total += product(some_grad.t().contiguous(), some.t().contiguous())
    return total


class _Linear(torch.autograd.Function):
    """The product with its gradients, each by oneDNN; what it would do slowly is laid out first."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        ctx.save_for_backward(values, weight)
        return product(values, weight, bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        values, weight = ctx.saved_tensors
        needed = ctx.needs_input_grad
        rows, d_rows = values.flatten(0, -2), grad.flatten(0, -2)
        d_values = product(grad, weight.t().contiguous()) if needed[0] else None
        d_weight = weight_gradient(d_rows, rows) if needed[1] else None
        return d_values, d_weight, d_rows.sum(0) if needed[2] else None


class Linear(nn.Linear):
    """torch's layer, by the product above."""

    def forward(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead output"]:
        """W x + b."""
        return linear(values, self.weight, self.bias)


def is_worthwhile(rows: int, weight: Tensor) -> bool:
    """Whether the product of so many rows with this weight is better left to oneDNN."""
    return rows * weight.numel() >= WORTHWHILE and has_alternative(weight, weight)


def _quicker(values: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN does this product more quickly."""
    return values.numel() * len(weight) >= WORTHWHILE and has_alternative(values, weight)


def has_alternative(values: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can do this product, and is the quicker one here."""
    if not values.dtype is weight.dtype is torch.float32 or values.device.type != "cpu":
        return False
    return held_back() and not torch.is_autocast_enabled("cpu")


@functools.cache
def held_back() -> bool:
    """Whether MKL leaves half of this processor unused, and torch's build can do without it."""
    able = torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, "_linear_pointwise")
    return able and torch.backends.cpu.get_cpu_capability() == "AVX512" and not _made_by_intel()


def _made_by_intel() -> bool:
    try:
        return "GenuineIntel" in CPUINFO.read_text(encoding="utf-8")
    except OSError:
        return "Intel" in platform.processor()
