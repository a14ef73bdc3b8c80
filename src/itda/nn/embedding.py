"""Embedders: what turns ids or real-valued vectors into the features that an encoder or a decoder reads."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.nn.dropping import drop, keep_mask


class Embedder(nn.Module, ABC):
    """Turns what a side holds at each position into `dim` numbers."""

    dim: int
    verbatim = False  # whether what is read is what was given

    @abstractmethod
    def forward(self, values: Tensor) -> Tensor:
        """(...) ids, or (..., numbers) vectors, to (..., dim) features."""


class TokenEmbedding(Embedder):
    """Looks up a vector for each token id; the row of PAD stays zero and gets no gradient."""

    def __init__(self, vocab_size: int, dim: int, pad: int) -> None:
        super().__init__()
        self.dim = dim
        self.table = nn.Embedding(vocab_size, dim, padding_idx=pad)

    def forward(self, ids: Tensor) -> Tensor:
        """(...) ids to (..., dim) features."""
        return self.table(ids)


class VectorEmbedding(Embedder):
    """Passes real-valued vectors on as they are, as the lecture's program does."""

    verbatim = True

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim

    def forward(self, vectors: Tensor) -> Tensor:
        """(..., dim) to (..., dim)."""
        return vectors


class SequenceDropout(nn.Module):
    """Dropout on (batch, time, dim); variational: one mask a sentence, the same at each position (Gal 2016)."""

    def __init__(self, rate: float, variational: bool) -> None:
        super().__init__()
        self.rate, self.variational = rate, variational

    @property
    def active(self) -> bool:
        """Whether anything is dropped."""
        return self.training and self.rate > 0.0

    def forward(
        self, values: Float[Tensor, "batch time dim"], mask: Float[Tensor, "batch dim"] | None = None
    ) -> Float[Tensor, "batch time dim"]:
        """Drop features and scale the rest by 1 / (1 - rate), in training only; `mask` is one that `draw` gave."""
        if mask is not None:
            return values * mask[:, None]
        if not self.active:
            return values
        if not self.variational:
            return drop(values, self.rate)
        return values * self.mask(values[:, :1])

    def draw_steps(
        self, steps: int, like: Float[Tensor, "batch dim"], mask: Float[Tensor, "batch dim"] | None
    ) -> Float[Tensor, "time batch dim"] | None:
        """Draw the masks of all positions before a loop over time, or repeat those of sentences; None: drop nothing."""
        if mask is not None:
            return mask.expand(steps, *mask.shape)
        return self.mask(like.new_empty(steps, *like.shape)) if self.active else None

    def draw(self, like: Float[Tensor, "batch dim"]) -> Float[Tensor, "batch dim"] | None:
        """Draw the masks of whole sentences before a loop over time; None where each position draws its own."""
        return self.mask(like) if self.active and self.variational else None

    def mask(self, like: Tensor) -> Tensor:
        """Draw a scaled keep mask of the shape of `like`."""
        return keep_mask(like, self.rate)


def reverse_sequences(values: Float[Tensor, "batch time dim"], mask: Bool[Tensor, "batch time"]) -> Tensor:
    """Reverse each sequence within its real length; padding stays where it is."""
    length = mask.sum(1, keepdim=True)
    positions = torch.arange(values.shape[1], device=values.device)[None]
    source = torch.where(positions < length, length - 1 - positions, positions)
    return values.gather(1, source[..., None].expand_as(values))
