"""Attention that knows where it has looked: what it keeps of earlier alphas is part of the additive score.

LocationAttention   the last alpha, by a convolution: moves on along the source      (Chorowski et al. 2015)
CoverageAttention   the sum of all alphas so far: what is done is not looked at again (Tu et al. 2016, See et al. 2017)

What is kept travels in the cache of the decoder's `State`, (rows, src), so that beams may be reordered. It is added to
the keys before each query, so they are keys of that query alone; no fused loop knows such a score.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.nn.attention import AdditiveAttention, Attention

Keys = Float[Tensor, "sentences src key"]
QueryKeys = Float[Tensor, "sentences queries src key"]
Past = Float[Tensor, "rows src"]
PastOfSentences = Float[Tensor, "sentences queries src"]


class LocationAttention(Attention):
    """e_{t,i} = v^T tanh(W s + U h_i + V f_{t,i}), f_t = F * alpha_{t-1} (Chorowski et al. 2015, arXiv 1506.07503).

    F are `filters` filters that each see `kernel_width` positions around i. Before the first look alpha is 0.
    """

    def __init__(self, query_dim: int, state_dim: int, dim: int, filters: int, kernel_width: int) -> None:
        super().__init__()
        self.content = AdditiveAttention(query_dim, state_dim, dim)
        self.filters = nn.Conv1d(1, filters, kernel_width, padding=kernel_width // 2, bias=False)
        self.location_map = nn.Linear(filters, dim, bias=False)

    def start(self, mask: Bool[Tensor, "sentences src"], like: Tensor) -> Past:
        """No look yet."""
        return like.new_zeros(mask.shape)

    def follow(self, past: Past, alpha: Past) -> Past:
        """alpha_t takes the place of the one before."""
        return alpha

    def keys(self, states: Float[Tensor, "sentences src context"]) -> Keys:
        """U h_i."""
        return self.content.keys(states)

    def recall(self, keys: Keys, past: PastOfSentences) -> QueryKeys:
        """U h_i + V f_{t,i}."""
        found = self.filters(past.flatten(0, 1)[:, None]).transpose(1, 2)  # rows src filters
        return keys[:, None] + self.location_map(found).unflatten(0, past.shape[:2])

    def scores(self, query: Float[Tensor, "sentences queries dim"], keys: QueryKeys) -> PastOfSentences:
        """v^T tanh(W s + the key)."""
        return _energy(self.content, query, keys)


class CoverageAttention(Attention):
    """e_{t,i} = v^T tanh(W s + U h_i + w k_{t,i}), k_t = sum_{t' < t} alpha_{t'} (See et al. 2017, arXiv 1704.04368).

    It is the linguistic coverage of Tu et al. (2016, arXiv 1601.04811) with a fertility of 1 for each source word.
    """

    def __init__(self, query_dim: int, state_dim: int, dim: int) -> None:
        super().__init__()
        self.content = AdditiveAttention(query_dim, state_dim, dim)
        self.coverage_map = nn.Linear(1, dim, bias=False)

    def start(self, mask: Bool[Tensor, "sentences src"], like: Tensor) -> Past:
        """Nothing is covered yet."""
        return like.new_zeros(mask.shape)

    def follow(self, past: Past, alpha: Past) -> Past:
        """Add alpha_t."""
        return past + alpha

    def keys(self, states: Float[Tensor, "sentences src context"]) -> Keys:
        """U h_i."""
        return self.content.keys(states)

    def recall(self, keys: Keys, past: PastOfSentences) -> QueryKeys:
        """U h_i + w k_{t,i}."""
        return keys[:, None] + self.coverage_map(past[..., None])

    def scores(self, query: Float[Tensor, "sentences queries dim"], keys: QueryKeys) -> PastOfSentences:
        """v^T tanh(W s + the key)."""
        return _energy(self.content, query, keys)


def _energy(content: AdditiveAttention, query: Tensor, keys: QueryKeys) -> PastOfSentences:
    return content.energy(torch.tanh(content.query_map(query)[:, :, None] + keys)).squeeze(-1)
