"""Attention inside a fused loop: alpha_t written into arrays made once, and the gradients by hand."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda.nn.fused.cells import over_time

Rows = Float[Tensor, "rows dim"]
Weights = Float[Tensor, "rows src"]


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
    """e_{t,i} = v^T tanh(W s + k_i), for additive and concat attention."""

    def __init__(
        self,
        steps: int,
        keys: Float[Tensor, "rows src key"],
        mask: Bool[Tensor, "rows src"],
        query_map: Float[Tensor, "key dim"],
        energy: Float[Tensor, " key"],
        keep: bool,
    ) -> None:
        self.keys, self.query_map, self.energy = keys, query_map, energy
        self.alphas = Alphas(steps, mask, keys)
        self.tanh = keys.new_empty(steps if keep else 1, *keys.shape)

    def look(self, t: int, query: Rows) -> Weights:
        """alpha_t."""
        tanh = self.tanh[t % len(self.tanh)]
        mapped = query @ self.query_map.t()
        torch.add(mapped[:, None], self.keys, out=tanh).tanh_()
        return self.alphas.soften(t, (tanh.flatten(0, 1) @ self.energy).view(self.keys.shape[:2]))

    def start_backward(self) -> None:
        """Make room for the gradients."""
        steps, rows, _, size = self.tanh.shape
        self.d_query = self.keys.new_empty(steps, rows, size)
        self.d_keys = torch.zeros_like(self.keys)
        self.d_energy = torch.zeros_like(self.energy)

    def unlook(self, t: int, d_alpha: Weights) -> Rows:
        """The gradient of the query."""
        tanh, d_scores = self.tanh[t], self.alphas.harden(t, d_alpha)
        self.d_energy.addmv_(tanh.flatten(0, 1).t(), d_scores.flatten())
        slope = torch.addcmul(_ONE.to(tanh), tanh, tanh, value=-1).mul_(d_scores[..., None])
        self.d_keys += slope
        d_query = torch.sum(slope, dim=1, out=self.d_query[t]).mul_(self.energy)
        return d_query @ self.query_map

    def gradients(self, queries: Float[Tensor, "time rows dim"]) -> tuple[Tensor, Tensor, Tensor]:
        """Of the keys, the query map and the energy."""
        return self.d_keys.mul_(self.energy), over_time(self.d_query, queries), self.d_energy


_ONE = torch.ones(())


class ProductTrace:
    """e_{t,i} = s^T k_i, for dot and general attention."""

    def __init__(
        self, steps: int, keys: Float[Tensor, "rows src dim"], mask: Bool[Tensor, "rows src"], keep: bool
    ) -> None:
        self.keys = keys
        self.alphas = Alphas(steps, mask, keys)

    def look(self, t: int, query: Rows) -> Weights:
        """alpha_t."""
        return self.alphas.soften(t, torch.bmm(self.keys, query[..., None]).squeeze(2))

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
