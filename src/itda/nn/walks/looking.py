"""Attention of a few queries to places of a store: what a decoder under way does at each step, written out.

torch's own kernel is made for many queries, and has few here. Two habits of its parts decide how it is done instead:

- Its softmax takes rows of fewer than 16 numbers one number at a time, ten times as slowly. So there are never fewer
  places than that; those beyond the real ones are shut out by a bias.
- A batched product of one row of weights with a few values is slow for its size. Where a group has one query, its
  mixture is what `embedding_bag` computes: a weighted sum of rows of a table.
"""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

LEAST = 16  # places
SUM = 0  # what torch calls the mode

Values = Float[Tensor, "sentences width dim"]
Heads = Float[Tensor, "sentences heads width head_dim"]
Store = Float[Tensor, "sentences kv_heads room head_dim"]
Bias = Float[Tensor, "#groups #queries places"]  # groups: key heads of all sentences


def no_fewer(places: int) -> int:
    """How many places are looked at where so many are in use."""
    return max(places, LEAST)


class Places:
    """The first places of each group in a store, as `embedding_bag` asks for them."""

    def __init__(self) -> None:
        self._known: tuple[int, int, int] | None = None
        self._index: tuple[Tensor, Tensor] | None = None

    def of(
        self, groups: int, room: int, places: int, device: torch.device
    ) -> tuple[Int[Tensor, " groups_places"], Int[Tensor, " groups"]]:
        """Rows of the store laid flat, and where those of each group begin; made anew only where they change."""
        if self._index is None or self._known != (groups, room, places):
            group = torch.arange(groups, dtype=torch.int32, device=device)
            index = (group * room)[:, None] + torch.arange(places, dtype=torch.int32, device=device)
            self._known, self._index = (groups, room, places), (index.flatten(), group * places)
        return self._index


def attend(
    query: Heads, key: Store, value: Store, places: int, bias: Bias | None, index: Places
) -> tuple[Values, Float[Tensor, "groups queries places"]]:
    """Let all rows of a sentence look at its first places: their answers, heads side by side, and the weights.

    Query heads that share a key head are further queries of it. What the bias shuts out must be a number all the same.
    """
    sentences, heads, width, size = query.shape
    keys, values = key.flatten(0, 1), value.flatten(0, 1)
    folded = query.reshape(len(keys), -1, size)
    beta = 1.0 if bias is not None else 0.0
    start = query.new_zeros(1, 1, 1) if bias is None else bias
    scores = torch.baddbmm(start, folded, keys[:, :places].transpose(1, 2), beta=beta, alpha=size**-0.5)
    weights = torch.softmax(scores, dim=2)
    if folded.shape[1] > 1 or query.device.type != "cpu":
        answer = torch.bmm(weights, values[:, :places]).view(sentences, heads, width, size)
        return answer.transpose(1, 2).flatten(2), weights
    rows, first = index.of(len(keys), keys.shape[1], places, query.device)
    table = values.view(-1, size)
    answer = torch.embedding_bag(table, rows, first, False, SUM, False, weights.view(-1))[0]
    return answer.view(sentences, 1, -1), weights
