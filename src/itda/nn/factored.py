"""Embeddings of packed ids: words with factors (Sennrich and Haddow 2016), tags (Johnson et al. 2017), words alone.

A packed id is word + V x (first factor + F1 x (second factor + ...)); a tag's id lies beyond all of them. What unpacks
them is an embedder like any other, so no encoder knows of factors.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from itda.nn.embedding import Embedder, TokenEmbedding

FIRST = 2  # of a factor's numbers, the first that stands for a value: 0 is none, 1 one that training did not see


class FactoredEmbedding(Embedder):
    """The word's embedding, with those of its factors added to it, or beside it where they have a size of their own."""

    def __init__(self, words: TokenEmbedding, vocab_size: int, sizes: Sequence[int], dims: Sequence[int]) -> None:
        """Take the number of values of each factor, and how many numbers it stands beside the word with (0: added)."""
        super().__init__()
        self.words, self.vocab_size, self.sizes, self.dims = words, vocab_size, tuple(sizes), tuple(dims)
        self.factors = nn.ModuleList(
            nn.Embedding(size, dim or words.dim, padding_idx=0) for size, dim in zip(sizes, dims, strict=True)
        )
        self.dim = words.dim + sum(dims)

    def forward(self, ids: Int[Tensor, "*lead"]) -> Float[Tensor, "*lead dim"]:
        """(...) packed ids to (..., dim) features."""
        summed, beside = self.words(ids % self.vocab_size), []
        rest = ids // self.vocab_size
        for table, size, dim in zip(self.factors, self.sizes, self.dims, strict=True):
            values = table(rest % size)
            rest = rest // size
            if dim:
                beside.append(values)
            else:
                summed = summed + values
        return torch.cat([summed, *beside], dim=-1) if beside else summed


class TaggedEmbedding(Embedder):
    """A vector for each id beyond `base`, the tags; what `inner` says for all others."""

    def __init__(self, inner: TokenEmbedding | FactoredEmbedding, base: int, tags: int) -> None:
        super().__init__()
        self.inner, self.base, self.dim = inner, base, inner.dim
        self.tags = nn.Embedding(tags, inner.dim)

    def forward(self, ids: Int[Tensor, "*lead"]) -> Float[Tensor, "*lead dim"]:
        """(...) ids to (..., dim) features."""
        is_tag = ids >= self.base
        words, tags = self.inner(ids.masked_fill(is_tag, 0)), self.tags((ids - self.base).clamp(min=0))
        return torch.where(is_tag[..., None], tags, words)


class WordEmbedding(Embedder):
    """The embedding of the words alone, whatever factors are packed with them: what a decoder reads of its own past."""

    def __init__(self, words: TokenEmbedding, vocab_size: int) -> None:
        super().__init__()
        self.words, self.vocab_size, self.dim = words, vocab_size, words.dim

    def forward(self, ids: Int[Tensor, "*lead"]) -> Float[Tensor, "*lead dim"]:
        """(...) packed ids to (..., dim) features."""
        return self.words(ids % self.vocab_size)


def words_of(embed: Embedder) -> TokenEmbedding | None:
    """Find the embedding of the words themselves; None where no words are read."""
    if isinstance(embed, TaggedEmbedding):
        embed = embed.inner
    if isinstance(embed, (FactoredEmbedding, WordEmbedding)):
        return embed.words
    return embed if isinstance(embed, TokenEmbedding) else None


@torch.no_grad()
def draw_extras(part: nn.Module) -> None:
    """Draw the tables of factors and tags as large as the words beside them.

    A value that training never sees adds nothing: it begins as zeros, and stays so without a gradient.
    """
    for module in part.modules():
        if not isinstance(module, (FactoredEmbedding, TaggedEmbedding)):
            continue
        words = words_of(module)
        assert words is not None, "factors and tags stand beside words"
        beside = isinstance(module, FactoredEmbedding)
        for table in module.factors if beside else [module.tags]:
            table.weight.normal_(std=float(words.table.weight.square().mean().sqrt()))
            if beside:
                table.weight[:FIRST] = 0.0
