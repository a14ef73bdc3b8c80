"""Real-valued sequences for the lecture's program; there is nothing in them to learn but themselves."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float32
from numpy import ndarray

from itda.errors import UserError


def normal_vectors(
    seed: int, pairs: int, length: int, src_dim: int, tgt_dim: int
) -> tuple[Float32[ndarray, "pairs length src_dim"], Float32[ndarray, "pairs length tgt_dim"]]:
    """Draw sources and targets from the standard normal distribution (the lecture: 2 pairs, length 5, 10 and 10)."""
    for name, value in (("pairs", pairs), ("length", length), ("src_dim", src_dim), ("tgt_dim", tgt_dim)):
        if value < 1:
            raise UserError(f"data.{name} is {value}; it must be 1 or more.")
    random = np.random.default_rng(seed)
    src = random.standard_normal((pairs, length, src_dim), dtype=np.float32)
    return src, random.standard_normal((pairs, length, tgt_dim), dtype=np.float32)
