"""A quick look at all words of a vocabulary: approximate logits, and a bound on how wrong any of them can be."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.nn.product import linear
from itda.nn.rounded import Rounded, weight_limit

BLOCK = 64  # words that share a maximum
MANY = 32  # words of a row that are worth gathering; beyond them the whole vocabulary is scored


@dataclass
class Tally:
    """How many rows were looked at, and of how many all words had to be scored."""

    rows: int = 0
    whole: int = 0


@dataclass(frozen=True)
class Leaders:
    """For each row the words that may be among its best, with exact logits (-inf at the end of a short list).

    The normaliser is that of the approximate logits, and no further from the true one than the bound.
    """

    ids: Int[Tensor, "rows words"]
    logits: Float[Tensor, "rows words"]
    normaliser: Float[Tensor, "rows 1"]


@dataclass(frozen=True)
class Screen:
    """W and b with W rounded to int8 as V. With r the rounded features h, each logit is off by no more than

        |w h - v r| <= |w - v| |h| + |v| |h - r|            (Cauchy-Schwarz, norms taken after the rounding)

    and the rounding errors of both sums, each below dim x epsilon x |w| |h|.
    """

    weight: Float[Tensor, "vocab dim"]
    bias: Float[Tensor, " vocab"]
    rounded: Rounded
    largest: float  # of all |v|
    furthest: float  # of all |w - v|
    tally: Tally

    @staticmethod
    def of(weight: Float[Tensor, "vocab dim"], bias: Float[Tensor, " vocab"]) -> Screen | None:
        """Round W; None where this machine has no exact int8 product."""
        limit = weight_limit() if weight.device.type == "cpu" else 0
        if not limit:
            return None
        weight, bias = weight.detach(), bias.detach()
        rounded = Rounded.of(weight, limit)
        values = rounded.values()
        furthest = (weight - values).norm(dim=1).max()
        return Screen(weight, bias, rounded, float(values.norm(dim=1).max()), float(furthest), Tally())

    def approximate(
        self, features: Float[Tensor, "rows dim"]
    ) -> tuple[Float[Tensor, "rows vocab"], Float[Tensor, "rows 1"]]:
        """The logits by int8 products, and how far any of a row may be from the exact one."""
        rounded = Rounded.of(features)
        norm = features.norm(dim=1, keepdim=True)
        away = (features - rounded.values()).norm(dim=1, keepdim=True)
        slack = 4 * features.shape[1] * torch.finfo(torch.float32).eps * (self.largest + self.furthest) * norm
        return rounded.product(self.rounded).add_(self.bias), self.furthest * norm + self.largest * away + slack

    def leaders(self, features: Float[Tensor, "rows dim"], count: int) -> Leaders:
        """Find the `count` best words of each row, and all that the bound cannot tell from them."""
        logits, error = self.approximate(features)
        maxima = logits[:, : logits.shape[1] // BLOCK * BLOCK].unflatten(1, (-1, BLOCK)).amax(dim=2)
        # So many words are at least as good as this: the best of so many blocks.
        floor = maxima.topk(count, dim=1).values[:, -1:] if maxima.shape[1] >= count else None
        floor = logits.topk(min(count, logits.shape[1]), dim=1).values[:, -1:] if floor is None else floor
        open_ = logits >= floor - 2 * error
        counts = open_.sum(dim=1)
        whole = counts > MANY
        self.tally.rows += len(features)
        self.tally.whole += int(whole.sum())
        normaliser = logits.logsumexp(dim=1, keepdim=True)
        open_[whole] = False
        ids, exact = self._gathered(features, open_, counts.masked_fill(whole, 0), count)
        if whole.any():
            every = linear(features[whole], self.weight, self.bias)
            best, places = every.topk(min(count, every.shape[1]), dim=1)
            ids[whole, : places.shape[1]], exact[whole, : places.shape[1]] = places, best
            normaliser[whole] = every.logsumexp(dim=1, keepdim=True)
        return Leaders(ids, exact, normaliser)

    def logits(self, features: Float[Tensor, "rows dim"], words: slice) -> Float[Tensor, "rows words"]:
        """The exact logits of a few words that are always asked for."""
        return linear(features, self.weight[words], self.bias[words])

    def _gathered(self, features: Tensor, open_: Tensor, counts: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """The open words of each row, in the order of their ids, and their exact logits."""
        rows, words = open_.nonzero(as_tuple=True)
        places = torch.arange(len(rows)) - (counts.cumsum(0) - counts)[rows]
        width = max(int(counts.max()), count)
        ids = torch.zeros(len(features), width, dtype=torch.long)
        logits = features.new_full((len(features), width), float("-inf"))
        ids[rows, places] = words
        logits[rows, places] = (features[rows] * self.weight[words]).sum(dim=1) + self.bias[words]
        return ids, logits
