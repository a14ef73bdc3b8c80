"""Attention inside a fused loop: alpha_t written into arrays made once, and the gradients by hand."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda.nn.fused.cells import sigmoid_backward
from itda.nn.fused.steps import over_time, step_products

Rows = Float[Tensor, "rows dim"]
Weights = Float[Tensor, "rows src"]


def dots(vectors: Float[Tensor, "rows src dim"], row: Rows) -> Weights:
    """The product of each vector with its row; a row times a matrix took a tenth of the other order's time."""
    return torch.bmm(row[:, None], vectors.transpose(1, 2)).squeeze(1)


class Alphas:
    """The softmax of masked scores, at each position."""

    def __init__(self, steps: int, mask: Bool[Tensor, "rows src"], like: Tensor) -> None:
        self.shut = like.new_zeros(mask.shape).masked_fill_(~mask, float("-inf"))
        self.alpha = like.new_empty(steps, *mask.shape)

    def soften(self, t: int, scores: Weights) -> Weights:
        """alpha_{t,i} = exp(e_{t,i}) / sum_j exp(e_{t,j}), 0 on padding."""
        return torch.softmax(scores.add_(self.shut), dim=1, out=self.alpha[t])

    def harden(self, t: int, d_alpha: Weights) -> Weights:
        """The gradient of e_t."""
        alpha = self.alpha[t]
        scaled = d_alpha * alpha
        return scaled.addcmul_(alpha, scaled.sum(1, keepdim=True), value=-1)


class AdditiveTrace:
    """e_{t,i} = v^T tanh(W s + k_i), for additive and concat attention.

    tanh(x) = 2 sigmoid(2x) - 1, and sigmoid is the quicker one by far. So scores are 2 v^T sigmoid(2x), which differ
    from e_t by what is the same at each position and leaves alpha_t as it is. The curves of a step are as large as the
    source times its width: they are computed again on the way back, which takes less time than fetching them from
    memory, and `steps` times less memory.
    """

    def __init__(
        self,
        steps: int,
        keys: Float[Tensor, "rows src key"],
        mask: Bool[Tensor, "rows src"],
        query_map: Float[Tensor, "key dim"],
        energy: Float[Tensor, " key"],
    ) -> None:
        rows, _, size = keys.shape
        self.products, self.energy = step_products(query_map, rows), energy
        self.alphas = Alphas(steps, mask, keys)
        self.keys = keys
        self.mapped = keys.new_empty(steps, rows, size)  # 2 W s
        self.curves = torch.empty_like(keys)

    def look(self, t: int, query: Rows) -> Weights:
        """alpha_t."""
        torch.mul(self.products.of(query), 2.0, out=self.mapped[t])
        return self.alphas.soften(t, torch.mv(self._bend(t).flatten(0, 1), self.energy * 2.0).view(self.keys.shape[:2]))

    def _bend(self, t: int) -> Float[Tensor, "rows src key"]:
        """sigmoid(2 (W s + k_i))."""
        return torch.add(self.mapped[t][:, None], self.keys, alpha=2.0, out=self.curves).sigmoid_()

    def start_backward(self) -> None:
        """Make room for the gradients."""
        self.d_mapped = torch.empty_like(self.mapped)
        self.d_keys = torch.zeros_like(self.keys)
        self.d_energy = torch.zeros_like(self.energy)
        self.scale = self.energy * 4.0  # tanh' = 4 sigmoid (1 - sigmoid), of 2x

    def unlook(self, t: int, d_alpha: Weights) -> Rows:
        """The gradient of the query."""
        curves, d_scores = self._bend(t), self.alphas.harden(t, d_alpha)
        self.d_energy.addmv_(curves.flatten(0, 1).t(), d_scores.flatten(), alpha=2.0)
        slopes = sigmoid_backward.grad_input(d_scores[..., None].expand_as(curves), curves, grad_input=curves)
        self.d_keys += slopes
        d_mapped = torch.sum(slopes, dim=1, out=self.d_mapped[t]).mul_(self.scale)
        return self.products.back(d_mapped)

    def gradients(self, queries: Float[Tensor, "time rows dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the keys, the query map and the energy."""
        return self.d_keys.mul_(self.scale), over_time(self.d_mapped, queries), self.d_energy


class ProductTrace:
    """e_{t,i} = s^T k_i, for dot and general attention."""

    def __init__(self, steps: int, keys: Float[Tensor, "rows src dim"], mask: Bool[Tensor, "rows src"]) -> None:
        self.keys = keys
        self.alphas = Alphas(steps, mask, keys)

    def look(self, t: int, query: Rows) -> Weights:
        """alpha_t."""
        return self.alphas.soften(t, dots(self.keys, query))

    def start_backward(self) -> None:
        """Make room for the gradients."""
        self.d_scores = torch.empty_like(self.alphas.alpha)

    def unlook(self, t: int, d_alpha: Weights) -> Rows:
        """The gradient of the query."""
        self.d_scores[t] = self.alphas.harden(t, d_alpha)
        return torch.bmm(self.d_scores[t][:, None], self.keys).squeeze(1)

    def gradients(self, queries: Float[Tensor, "time rows dim"]) -> tuple[Tensor, None, None]:
        """Of the keys; there is no query map and no energy."""
        return torch.bmm(self.d_scores.permute(1, 2, 0), queries.transpose(0, 1)), None, None


ScoreTrace = AdditiveTrace | ProductTrace
