"""New rows for a vocabulary that grew: they start where what they were spelled with stood."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Generator, Tensor

NOISE = 0.05  # share of the old rows' standard deviation: enough to tell two new rows apart, too little to matter


@torch.no_grad()
def grown_rows(
    rows: Float[Tensor, "old dim"], origins: Sequence[Sequence[int]], ordinary: int, draw: Generator
) -> Float[Tensor, "new dim"]:
    """Append a row for each entry: the mean of the old rows in its `origins`, or of all `ordinary` ones, plus noise.

    `ordinary` is the first id that is no special entry. As an output row, a mean of old ones takes at most the mean of
    their probabilities' share (Jensen), so what the model wrote before it still writes (Hewitt 2021, "Initializing New
    Word Embeddings for Pretrained Language Models").
    """
    usual = rows[ordinary:] if len(rows) > ordinary else rows
    mean, spread = usual.mean(0), usual.std() if usual.numel() > 1 else rows.new_zeros(())
    new = torch.stack([rows[list(origin)].mean(0) if origin else mean for origin in origins])
    noise = torch.randn(new.shape, generator=draw, dtype=torch.float64)
    return torch.cat([rows, new + (NOISE * spread) * noise.to(rows)])


@torch.no_grad()
def grown_bias(bias: Float[Tensor, " old"], number: int, ordinary: int) -> Float[Tensor, " new"]:
    """Append `number` entries as improbable as the most improbable ordinary one."""
    usual = bias[ordinary:] if len(bias) > ordinary else bias
    return torch.cat([bias, usual.min().expand(number)])
