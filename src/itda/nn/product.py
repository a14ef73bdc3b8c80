"""Products with a weight, by the quicker of the two libraries that torch brings along.

On a processor with AVX-512 that Intel did not make, MKL, which torch asks for its products, keeps to AVX2 and reaches
less than half of what the processor can; oneDNN, which torch has too, does not (docs/design/0015). Where a gradient is
wanted, under autocast, and everywhere else, the product is torch's own.
"""

from __future__ import annotations

import functools
import platform
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

CPUINFO = Path("/proc/cpuinfo")
WORTHWHILE = 1 << 19  # multiplications from which on oneDNN is the quicker one


def linear(
    values: Float[Tensor, "*lead input"], weight: Float[Tensor, "output input"], bias: Float[Tensor, " output"] | None
) -> Float[Tensor, "*lead output"]:
    """W x + b for each vector."""
    if torch.is_grad_enabled() or values.numel() * len(weight) < WORTHWHILE or not _alternative(values, weight):
        return nn.functional.linear(values, weight, bias)
    return torch.ops.mkldnn._linear_pointwise(values.contiguous(), weight, bias, "none", [], "")


class Linear(nn.Linear):
    """torch's layer, by the product above."""

    def forward(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead output"]:
        """W x + b."""
        return linear(values, self.weight, self.bias)


def _alternative(values: Tensor, weight: Tensor) -> bool:
    """Whether oneDNN can do this product; what is not contiguous it would do a thousand times slower."""
    if not values.dtype is weight.dtype is torch.float32 or values.device.type != "cpu" or not weight.is_contiguous():
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
