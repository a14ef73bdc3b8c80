"""Multi-head attention (Vaswani et al. 2017), with fewer key and value heads where wanted (Ainslie et al. 2023).

    head_j = softmax(Q_j K_j^T / sqrt(head_dim)) V_j        answer = [head_1; ...; head_h] W_o

Query heads stand in groups of num_heads / num_kv_heads, each group with one key and value head. Where no order
is at stake a group is folded into the query positions, so that keys and values are never repeated for it.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.functional import scaled_dot_product_attention

from itda.nn.attention import Attention
from itda.nn.dropping import drop
from itda.nn.positions import rotate
from itda.nn.product import Linear
from itda.nn.walks.looking import LEAST

Values = Float[Tensor, "batch time dim"]
Heads = Float[Tensor, "batch heads time head_dim"]
KeyValues = tuple[Float[Tensor, "sentences kv_heads src head_dim"], Float[Tensor, "sentences kv_heads src head_dim"]]
Bias = Float[Tensor, "sentences 1 1 src"]  # added to the scores: 0 on real positions, -inf on padding


def padding_bias(mask: Bool[Tensor, "sentences src"], dtype: torch.dtype) -> Bias:
    """Make of a mask what is added to scores, once for all layers."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, -math.inf)[:, None, None]


def attend(query: Heads, key: Tensor, value: Tensor, bias: Bias | None = None, rate: float = 0.0) -> Heads:
    """Let each query see all keys (where the bias allows it), by torch's kernel."""
    if bias is not None and bias.dtype != query.dtype:  # under autocast
        bias = bias.to(query.dtype)
    if bias is not None and _pays_to_pad(query, key):
        beyond = LEAST - key.shape[2]
        key, value = functional.pad(key, (0, 0, 0, beyond)), functional.pad(value, (0, 0, 0, beyond))
        bias = functional.pad(bias, (0, beyond), value=-math.inf)
    answer = scaled_dot_product_attention(_fold(query, key.shape[1]), key, value, attn_mask=bias, dropout_p=rate)
    return answer if answer.shape == query.shape else answer.reshape(query.shape)


def _pays_to_pad(query: Heads, key: Tensor) -> bool:
    """Whether a few keys more, which nobody sees, let torch's kernel take whole vectors where it would take numbers.

    With 8 to 15 keys, as many a batch of sentences has, it takes two to three times as long as with 16.
    """
    few = LEAST // 2 <= key.shape[2] < LEAST <= len(query) * query.shape[2]
    return few and query.device.type == "cpu" and not torch.is_grad_enabled()


def attend_to_past(query: Heads, key: Tensor, value: Tensor, rate: float = 0.0) -> Heads:
    """Let each query see the keys up to its own position, by torch's kernel."""
    group = query.shape[1] // key.shape[1]
    if group > 1:  # here positions are not to be mixed with heads
        key, value = key.repeat_interleave(group, dim=1), value.repeat_interleave(group, dim=1)
    return scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)


def attend_visibly(
    query: Heads, key: Tensor, value: Tensor, bias: Bias, rate: float = 0.0
) -> tuple[Heads, Float[Tensor, "batch heads time src"]]:
    """Do what `attend` does, written out, and give the weights (before dropout) too."""
    folded = _fold(query, key.shape[1])
    scores = (folded * query.shape[-1] ** -0.5) @ key.transpose(2, 3) + bias.to(folded.dtype)
    weights = torch.softmax(scores, dim=-1)
    answer = (drop(weights, rate) if rate else weights) @ value
    return answer.reshape(query.shape), weights.reshape(*query.shape[:3], -1)


def _fold(query: Heads, kv_heads: int) -> Tensor:
    """Count the query heads of a group as further queries of its one key head."""
    if query.shape[1] == kv_heads:
        return query
    return query.reshape(query.shape[0], kv_heads, -1, query.shape[3])


def _heads(values: Values, head_dim: int) -> Heads:
    return values.unflatten(2, (-1, head_dim)).transpose(1, 2)


def _merge(heads: Heads) -> Values:
    return heads.transpose(1, 2).flatten(2)


class AttentionPart(nn.Module):
    """What self-attention and cross-attention share: the sizes of heads, and the map of their answers."""

    def __init__(self, dim: int, num_heads: int, num_kv_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads, self.num_kv_heads, self.head_dim = num_heads, num_kv_heads, dim // num_heads
        self.dropout = dropout
        self.output = Linear(dim, dim)

    @property
    def rate(self) -> float:
        """Dropout on attention weights, in training only."""
        return self.dropout if self.training else 0.0

    def extra_repr(self) -> str:
        """Say how many heads there are."""
        return f"num_heads={self.num_heads}, num_kv_heads={self.num_kv_heads}, dropout={self.dropout}"


class SelfAttention(AttentionPart):
    """Attention of a sequence to itself; queries, keys and values are one product."""

    def __init__(self, dim: int, num_heads: int, num_kv_heads: int, rotary: bool, dropout: float) -> None:
        super().__init__(dim, num_heads, num_kv_heads, dropout)
        self.rotary = rotary
        self.map = Linear(dim, self.head_dim * (num_heads + 2 * num_kv_heads))

    def forward(self, values: Values, bias: Bias | None = None) -> Values:
        """Each position sees all (where the bias allows it); without a bias, what came before it and itself."""
        query, key, value = self.project(values, 0)
        if bias is None:
            return self.output(_merge(attend_to_past(query, key, value, self.rate)))
        return self.output(_merge(attend(query, key, value, bias, self.rate)))

    def start(self, like: Float[Tensor, "rows 1 dim"]) -> Float[Tensor, "rows kv_heads_twice 0 head_dim"]:
        """The cache before the first position: keys and values, next to each other."""
        return like.new_zeros(len(like), 2 * self.num_kv_heads, 0, self.head_dim)

    def step(
        self, values: Float[Tensor, "rows 1 dim"], cache: Float[Tensor, "rows kv_heads_twice past head_dim"]
    ) -> tuple[Float[Tensor, "rows 1 dim"], Float[Tensor, "rows kv_heads_twice now head_dim"]]:
        """One more position, which sees the cache and itself."""
        query, *new = self.project(values, cache.shape[2])
        cache = torch.cat([cache, torch.cat(new, dim=1)], dim=2)
        key, value = cache.chunk(2, dim=1)
        return self.output(_merge(attend(query, key, value, None, self.rate))), cache

    def project(self, values: Values, start: int) -> tuple[Heads, Tensor, Tensor]:
        """Queries, keys and values; the first position stands at `start`."""
        projected = self.map(values)
        queries, keys = self.num_heads * self.head_dim, self.num_kv_heads * self.head_dim
        if self.rotary:
            turned, value = projected.split([queries + keys, keys], dim=2)
            query, key = rotate(_heads(turned, self.head_dim), start).split([self.num_heads, self.num_kv_heads], dim=1)
            return query, key, _heads(value, self.head_dim)
        query, key, value = (_heads(part, self.head_dim) for part in projected.split([queries, keys, keys], dim=2))
        return query, key, value

    def project_rows(
        self, values: Float[Tensor, "sentences width dim"], position: int
    ) -> tuple[Float[Tensor, "sentences heads width head_dim"], Tensor, Tensor]:
        """The same for rows that all stand at one position; heads come before rows."""
        heads = _heads(self.map(values), self.head_dim)
        query, key, value = heads.split([self.num_heads, self.num_kv_heads, self.num_kv_heads], dim=1)
        if self.rotary:
            query, key = (rotate(part.flatten(1, 2)[:, :, None], position).view(part.shape) for part in (query, key))
        return query, key, value


class CrossAttention(AttentionPart):
    """Attention of a target to a memory; queries come as (sentences, queries, dim), so that beams share the keys."""

    def __init__(self, dim: int, memory_dim: int, num_heads: int, num_kv_heads: int, dropout: float) -> None:
        super().__init__(dim, num_heads, num_kv_heads, dropout)
        self.query_map = Linear(dim, dim)
        self.memory_map = Linear(memory_dim, 2 * num_kv_heads * self.head_dim)

    def keys(self, states: Float[Tensor, "sentences src memory_dim"]) -> KeyValues:
        """Keys and values of the memory, computed once a sentence."""
        key, value = self.memory_map(states).chunk(2, dim=2)
        return _heads(key, self.head_dim), _heads(value, self.head_dim)

    def forward(
        self, values: Float[Tensor, "sentences queries dim"], keys: KeyValues, bias: Bias
    ) -> Float[Tensor, "sentences queries dim"]:
        """Each query's answer."""
        return self.output(_merge(attend(self.queries(values), *keys, bias, self.rate)))

    def look(
        self, values: Float[Tensor, "sentences queries dim"], keys: KeyValues, bias: Bias
    ) -> tuple[Float[Tensor, "sentences queries dim"], Float[Tensor, "sentences queries src"]]:
        """The same, with the attention weights averaged over the heads."""
        answer, weights = attend_visibly(self.queries(values), *keys, bias, self.rate)
        return self.output(_merge(answer)), weights.mean(1)

    def queries(self, values: Values) -> Heads:
        """The queries of each head."""
        return _heads(self.query_map(values), self.head_dim)


class MultiHeadAttention(Attention):
    """Several heads as the attention of a recurrent decoder; alpha is averaged over them, c_t is their answer.

    So c_t is not the mixture of the h_i by that alpha, as it is with one head: each head mixes a part of its own.
    """

    def __init__(self, query_dim: int, state_dim: int, dim: int, num_heads: int) -> None:
        super().__init__()
        self.head_dim = dim // num_heads
        self.query_map = Linear(query_dim, dim)
        self.memory_map = Linear(state_dim, 2 * dim)
        self.output = Linear(dim, state_dim)

    def keys(self, states: Float[Tensor, "sentences src context"]) -> KeyValues:
        """Keys and values of each head, in the order in which each step reads them."""
        key, value = self.memory_map(states).chunk(2, dim=2)
        return _heads(key, self.head_dim).contiguous(), _heads(value, self.head_dim).contiguous()

    def scores(
        self, query: Float[Tensor, "sentences queries dim"], keys: KeyValues
    ) -> Float[Tensor, "sentences heads_queries src"]:
        """(W_q s)^T (W_k h_i) / sqrt(head_dim), for all queries of the first head, then of the next."""
        heads = _heads(self.query_map(query), self.head_dim)
        return ((heads * self.head_dim**-0.5) @ keys[0].transpose(2, 3)).flatten(1, 2)

    def forward(
        self,
        query: Float[Tensor, "sentences queries dim"],
        keys: KeyValues,
        states: Float[Tensor, "sentences src context"],
        mask: Bool[Tensor, "sentences src"],
    ) -> tuple[Float[Tensor, "sentences queries context"], Float[Tensor, "sentences queries src"]]:
        """c_t and alpha_t for each query."""
        scores = self.scores(query, keys).masked_fill(~mask[:, None], -math.inf)
        weights = torch.softmax(scores, dim=-1).unflatten(1, (-1, query.shape[1]))  # sentences heads queries src
        return self.output(_merge(weights @ keys[1])), weights.mean(1)
