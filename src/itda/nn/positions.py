"""Where in its sentence a vector stands: what gives an order to attention, which by itself has none.

Absolute positions are added to what a layer stack reads; rotary ones turn queries and keys, so that their product
depends on the distance of the two positions alone.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor, nn

Values = Float[Tensor, "batch time dim"]


class SinusoidalPositions(nn.Module):
    """Adds sin(t / 10000^(2i/dim)) at 2i and the cosine at 2i + 1 (Vaswani et al. 2017, arXiv 1706.03762)."""

    def forward(self, values: Values, start: int = 0) -> Values:
        """Add to each vector its position; the first stands at `start`."""
        angles = _angles(_rounded(start + values.shape[1]), values.shape[2], values.device, values.dtype)
        table = torch.stack(angles, dim=-1).flatten(1)[start : start + values.shape[1], : values.shape[2]]
        return values + table


class LearnedPositions(nn.Module):
    """Adds a learned vector for each of `max_length` positions; those beyond share the last one."""

    def __init__(self, max_length: int, dim: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.randn(max_length, dim) * dim**-0.5)

    def forward(self, values: Values, start: int = 0) -> Values:
        """Add to each vector its position; the first stands at `start`."""
        positions = torch.arange(start, start + values.shape[1], device=values.device)
        return values + self.table[positions.clamp(max=len(self.table) - 1)]


class NoPositions(nn.Module):
    """Adds nothing: the layers themselves know the order (rotary positions)."""

    def forward(self, values: Values, start: int = 0) -> Values:
        """Give back what came."""
        return values


Positions = SinusoidalPositions | LearnedPositions | NoPositions


def rotate(
    heads: Float[Tensor, "batch heads time head_dim"], start: int = 0
) -> Float[Tensor, "batch heads time head_dim"]:
    """Turn each pair (i, i + head_dim / 2) of a query or key by t / 10000^(2i/head_dim) (Su et al. 2021, RoFormer).

    Position t of `heads` stands at `start` + t; the product of a turned query and a turned key depends on their
    distance alone (arXiv 2104.09864).
    """
    time, size = heads.shape[2:]
    sine, cosine = (
        part[start : start + time] for part in _angles(_rounded(start + time), size, heads.device, heads.dtype)
    )
    left, right = heads.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, left * sine + right * cosine], dim=-1)


def _rounded(length: int) -> int:
    """The next power of two: few tables are ever made."""
    return max(64, 1 << (length - 1).bit_length())


@functools.lru_cache(maxsize=64)
def _angles(length: int, dim: int, device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Sines and cosines of t / 10000^(2i/dim), each (length, dim / 2 rounded up); a pure function, so kept."""
    with torch.inference_mode(False):  # a search may be the first to ask, and training the next
        rates = 10_000.0 ** (-torch.arange(0, dim, 2, dtype=torch.float64) / dim)
        angles = torch.arange(length, dtype=torch.float64)[:, None] * rates
        return angles.sin().to(device, dtype), angles.cos().to(device, dtype)
