"""Attention: where in the source to look. Each class differs only in the score e_{t,i}.

The lecture's formulas, for a query s (s_{t-1} with Bahdanau, s_t with Luong) and encoder states h_i:

    alpha_{t,i} = exp(e_{t,i}) / sum_j exp(e_{t,j})        c_t = sum_i alpha_{t,i} h_i

Padding is masked before the softmax. What depends on h alone is computed once a sentence, in `keys`.
Queries come as (sentences, queries, dim): the beams of a sentence share its keys without a copy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.nn.interface import Tree
from itda.nn.product import Linear

Context = Float[Tensor, "sentences queries context"]
Weights = Float[Tensor, "sentences queries src"]
Terms = tuple[Tensor | None, Tensor | None]


class Attention(nn.Module, ABC):
    """Scores each source position against a query and mixes the source states by the softmax of the scores."""

    def terms(self) -> Terms | None:
        """The query map and the energy vector of an additive score, (None, None) of a product of query and key.

        They are what a fused loop needs; None: it cannot compute this score.
        """
        return None

    @abstractmethod
    def keys(self, states: Float[Tensor, "sentences src context"]) -> Tree:
        """What the score needs of h_i, computed once a sentence: a tensor (sentences, src, key), or a tuple of some."""

    @abstractmethod
    def scores(self, query: Float[Tensor, "sentences queries dim"], keys: Tree) -> Weights:
        """e_{t,i}, before masking."""

    def start(self, mask: Bool[Tensor, "sentences src"], like: Tensor) -> Tree:
        """What is kept of earlier alphas, before the first: tensors with rows on dim 0; None: nothing ever is."""
        return None

    def follow(self, past: Tree, alpha: Float[Tensor, "rows src"]) -> Tree:
        """What is kept once alpha_t is known."""
        return None

    def recall(self, keys: Tree, past: Tree) -> Tree:
        """The keys for the next queries, which may depend on what is kept; it comes as (sentences, queries, ...)."""
        return keys

    def forward(
        self,
        query: Float[Tensor, "sentences queries dim"],
        keys: Tree,
        states: Float[Tensor, "sentences src context"],
        mask: Bool[Tensor, "sentences src"],
    ) -> tuple[Context, Weights]:
        """c_t and alpha_t for each query."""
        scores = self.scores(query, keys).masked_fill(~mask[:, None], float("-inf"))
        weights = torch.softmax(scores, dim=-1)
        return weights @ states, weights


class AdditiveAttention(Attention):
    """e_{t,i} = v^T tanh(W s + U h_i) (Bahdanau et al. 2015, arXiv 1409.0473)."""

    def __init__(self, query_dim: int, state_dim: int, dim: int) -> None:
        super().__init__()
        self.query_map = nn.Linear(query_dim, dim, bias=False)
        self.key_map = Linear(state_dim, dim)
        self.energy = nn.Linear(dim, 1, bias=False)

    def terms(self) -> Terms:
        """W and v."""
        return self.query_map.weight, self.energy.weight[0]

    def keys(self, states: Tensor) -> Tensor:
        """U h_i."""
        return self.key_map(states)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """v^T tanh(W s + U h_i)."""
        return self.energy(torch.tanh(self.query_map(query)[:, :, None] + keys[:, None])).squeeze(-1)


class ConcatAttention(Attention):
    """e_{t,i} = v^T tanh(W [s; h_i]), with no bias (Luong et al. 2015, arXiv 1508.04025).

    W [s; h_i] is computed as W_s s + W_h h_i with one matrix W, cut in two where s ends.
    """

    def __init__(self, query_dim: int, state_dim: int, dim: int) -> None:
        super().__init__()
        self.query_dim = query_dim
        self.joint_map = nn.Linear(query_dim + state_dim, dim, bias=False)
        self.energy = nn.Linear(dim, 1, bias=False)

    def terms(self) -> Terms:
        """W_s and v."""
        return self.joint_map.weight[:, : self.query_dim], self.energy.weight[0]

    def keys(self, states: Tensor) -> Tensor:
        """W_h h_i."""
        return nn.functional.linear(states, self.joint_map.weight[:, self.query_dim :])

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """v^T tanh(W [s; h_i])."""
        mapped = nn.functional.linear(query, self.joint_map.weight[:, : self.query_dim])
        return self.energy(torch.tanh(mapped[:, :, None] + keys[:, None])).squeeze(-1)


class DotAttention(Attention):
    """e_{t,i} = s^T h_i: s and h_i have the same size (Luong et al. 2015)."""

    def terms(self) -> Terms:
        """A product."""
        return None, None

    def keys(self, states: Tensor) -> Tensor:
        """h_i as it is."""
        return states

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """s^T h_i."""
        return query @ keys.transpose(1, 2)


class GeneralAttention(Attention):
    """e_{t,i} = s^T W h_i (Luong et al. 2015)."""

    def __init__(self, query_dim: int, state_dim: int) -> None:
        super().__init__()
        self.key_map = Linear(state_dim, query_dim, bias=False)

    def terms(self) -> Terms:
        """A product."""
        return None, None

    def keys(self, states: Tensor) -> Tensor:
        """W h_i."""
        return self.key_map(states)

    def scores(self, query: Tensor, keys: Tensor) -> Tensor:
        """s^T W h_i."""
        return query @ keys.transpose(1, 2)
