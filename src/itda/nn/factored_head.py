"""A head that says each word's factors too: p(word, factor | past) = p(word | past) p(factor | past, word).

The factors of Sockeye (Hieber et al. 2020, arXiv 2008.04885) are predicted one position later, when the word has been
read; here the word's embedding stands beside the features of its own position, so that no position is shifted and no
search knows of factors: they are added when the words stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional

from itda.batch import Side, Tokens
from itda.nn.factored import FIRST
from itda.nn.heads import SoftmaxHead
from itda.nn.interface import Decoded, Head, Memory, Narrowing, Sums
from itda.nn.screen import Screen

NONE = 0  # of a factor: no value, as specials and lone spaces have none


class FactoredHead(Head):
    """The head of the words, and one small softmax for each factor, which has seen the word.

    `nll` and all scores are those of the words alone; the objective adds `weight` x the factors' nll. Ids are packed:
    word + V x (first factor + F1 x (second factor + ...)).
    """

    def __init__(
        self, words: SoftmaxHead, table: nn.Parameter, dim: int, sizes: Sequence[int], weight: float = 1.0
    ) -> None:
        """Take the head of the words, the decoder's embedding table and the number of values of each factor."""
        super().__init__()
        self.words: Head = words
        self.vocab_size, self.table, self.sizes, self.factor_weight = words.vocab_size, table, tuple(sizes), weight
        self.hidden = nn.Linear(dim + table.shape[1], dim)
        self.outputs = nn.ModuleList(nn.Linear(dim, size) for size in sizes)

    def _words(self, target: Side) -> Tokens:
        assert isinstance(target, Tokens), "factors are those of tokens"
        return replace(target, ids=target.ids % self.vocab_size)

    def loss(self, decoded: Decoded, target: Side, memory: Memory) -> Sums:
        """The words' sums, with the factors' nll in the objective; where a token has no value, none is asked for."""
        sums = self.words.loss(decoded, self._words(target), memory)
        ids = target.values[target.mask]
        given = ids % self.vocab_size, ids // self.vocab_size
        objective, rest = sums.objective, given[1]
        for logits, size in zip(self._logits(decoded.features[target.mask], given[0]), self.sizes, strict=True):
            logits = logits.to(torch.promote_types(logits.dtype, torch.float32))  # under autocast they are coarser
            nll = functional.cross_entropy(logits, rest % size, ignore_index=NONE, reduction="sum")
            objective, rest = objective + self.factor_weight * nll, rest // size
        return Sums(sums.nll, objective, sums.count)

    def scores(
        self, decoded: Decoded, target: Side, memory: Memory
    ) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
        """Those of the words."""
        return self.words.scores(decoded, self._words(target), memory)

    def predict(self, decoded: Decoded, memory: Memory) -> Int[Tensor, "rows tgt"]:
        """The most probable word, without factors."""
        return self.words.predict(decoded, memory)

    def log_probs(
        self, decoded: Decoded, memory: Memory, candidates: Int[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, "rows tgt vocab"]:
        """Those of the words."""
        return self.words.log_probs(decoded, memory, candidates)

    def narrow(self, shared: Int[Tensor, " shared"]) -> Narrowing:
        """That of the words."""
        return self.words.narrow(shared)

    def screen(self) -> Screen | None:
        """That of the words."""
        return self.words.screen()

    def factors(self, decoded: Decoded, words: Int[Tensor, "rows tgt"]) -> list[Float[Tensor, "rows tgt values"]]:
        """For each factor the log-probabilities of its values, given the word that stands at each position."""
        found = []
        for logits in self._logits(decoded.features, words):
            never = torch.zeros_like(logits)
            never[..., :FIRST] = float("-inf")
            found.append(torch.log_softmax(logits + never, dim=-1))
        return found

    def _logits(self, features: Tensor, words: Tensor) -> list[Tensor]:
        read = torch.cat([features, functional.embedding(words, self.table)], dim=-1)
        hidden = torch.tanh(self.hidden(read))
        return [output(hidden) for output in self.outputs]
