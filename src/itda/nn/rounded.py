"""Matrices rounded to int8, and their exact integer products: a quarter of the bytes, and on many CPUs of the time.

A row w of a matrix is scale x q, with q whole numbers and scale = max |w| / limit. A row of activations is rounded
likewise, by its own maximum; so no row has anything to do with its neighbours, and an integer sum has no order:
what comes out for a row is the same to the last bit, whatever else is in the batch.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int8
from torch import Tensor, nn

MOST = 127
TINY = 1e-30


@functools.cache
def weight_limit() -> int:
    """Find the largest weight (127, or 63) that this CPU multiplies exactly; 0: it cannot multiply int8 at all.

    Without VNNI, products are summed in pairs of 16 bits, which overflow: 2 x 255 x 127 > 32767 > 2 x 255 x 63.
    """
    if not hasattr(torch, "_int_mm"):
        return 0
    return next((limit for limit in (MOST, MOST // 2) if _exact(limit)), 0)


def _exact(limit: int) -> bool:
    """Try the largest sums there can be, for a few shapes, as different kernels may serve them."""
    for rows in (1, 5, 64):
        for left, right in ((MOST, limit), (MOST, -limit), (-MOST, limit), (-MOST, -limit)):
            values = torch.full((rows, 256), left, dtype=torch.int8)
            weight = torch.full((64, 256), right, dtype=torch.int8)
            try:
                if not bool((torch._int_mm(values, weight.t()) == 256 * left * right).all()):
                    return False
            except RuntimeError:  # this torch has it for GPUs alone
                return False
    return True


@dataclass(frozen=True)
class Rounded:
    """Rows of whole numbers, and what one of them stands for in each row."""

    whole: Int8[Tensor, "rows dim"]
    scale: Float[Tensor, "rows 1"]

    @staticmethod
    def of(values: Float[Tensor, "rows dim"], limit: int = MOST) -> Rounded:
        """Round each row by its own maximum."""
        scale = (values.abs().amax(dim=1, keepdim=True) / limit).clamp_(min=TINY)
        return Rounded((values / scale).round_().to(torch.int8), scale)

    def values(self) -> Float[Tensor, "rows dim"]:
        """What it stands for."""
        return self.whole.to(self.scale.dtype) * self.scale

    def product(self, weight: Rounded) -> Float[Tensor, "rows out"]:
        """The product with each row of `weight`."""
        if self.whole.shape[1] == 1:  # where torch's kernel is wrong
            sums = self.whole.to(torch.int32) * weight.whole.t()
        else:
            sums = torch._int_mm(self.whole, weight.whole.t())
        return (sums * self.scale).mul_(weight.scale.t())


class Int8Linear(nn.Module):
    """W x + b with W rounded, and each row of x by itself."""

    def __init__(self, weight: Float[Tensor, "out dim"], bias: Float[Tensor, " out"] | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        rounded = Rounded.of(weight.detach(), weight_limit())
        self.register_buffer("whole", rounded.whole)
        self.register_buffer("scale", rounded.scale)
        self.register_buffer("bias", None if bias is None else bias.detach().clone())

    @property
    def weight(self) -> Float[Tensor, "out dim"]:
        """What the rounded matrix stands for, made anew each time: for those who take a map apart."""
        return Rounded(self.whole, self.scale).values()

    def forward(self, values: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead out"]:
        """One integer product; gradients do not flow."""
        if not values.numel():
            return values.new_zeros(*values.shape[:-1], self.out_features)
        answer = Rounded.of(values.reshape(-1, values.shape[-1])).product(Rounded(self.whole, self.scale))
        if self.bias is not None:
            answer += self.bias
        return answer.view(*values.shape[:-1], -1)
