"""Dropout on a CPU without its price: a random number of 64 bits decides for four numbers, not for half a one."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

LEVELS = 1 << 16  # a rate is rounded to this many


def drop(values: Float[Tensor, "*shape"], rate: float) -> Float[Tensor, "*shape"]:
    """Set each number to 0 with probability `rate` and divide the others by 1 - rate."""
    return values * keep_mask(values, rate) if values.device.type == "cpu" else functional.dropout(values, rate)


def keep_mask(like: Float[Tensor, "*shape"], rate: float) -> Float[Tensor, "*shape"]:
    """Draw what `drop` multiplies by, from torch's global generator: 0, or 1 / (1 - rate).

    torch's own dropout draws by the number, and on a CPU that costs more than many a matrix product beside it.
    """
    if like.device.type != "cpu":
        return functional.dropout(torch.ones_like(like), rate)
    count = like.numel()
    draws = torch.empty((count + 3) // 4, dtype=torch.int64).random_(-(2**63), None).view(torch.int16)[:count]
    kept = draws.view(like.shape) >= round(rate * LEVELS) - LEVELS // 2
    return kept.to(like.dtype).mul_(1 / (1 - rate))
