"""What the words that nobody scores weigh together: a normal cloud in place of thousands of logits.

The logit of a word drawn from the rest is w h + b. Taken as normal over these words, with mean m and covariance S of
(w, b) and with h' = (h, 1),

    sum_v exp(w_v h + b_v)  =  n E[exp(.)]  ~  n exp(m h' + h'^T S h' / 2)

which costs as much as dim + 1 words. It lets a short list be normalised nearly as the whole vocabulary is; without
it, hypotheses whose next word is not sure would gain by each word that is left out.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

JITTER = 1e-5  # of the covariance's mean variance, so that it has a Cholesky factor


@dataclass(frozen=True)
class Rest:
    """One map: its last output is log n + m h', the others' squares sum up to h'^T S h'."""

    weight: Float[Tensor, "outputs dim"]
    bias: Float[Tensor, " outputs"]

    @staticmethod
    def of(weight: Float[Tensor, "words dim"], bias: Float[Tensor, " words"]) -> Rest | None:
        """Measure the cloud of some words; None where there are none."""
        if not len(weight):
            return None
        points = torch.cat([weight, bias[:, None]], dim=1).detach()
        mean = points.mean(dim=0)
        spread = points - mean
        covariance = (spread.t() @ spread / len(points)).double()
        covariance.diagonal().add_(JITTER * float(covariance.diagonal().mean()) + torch.finfo(torch.float64).tiny)
        factor = torch.linalg.cholesky(covariance)  # S = F F^T
        mean[-1] += math.log(len(points))
        rows = torch.cat([factor.t(), mean[None]]).to(weight.dtype)
        return Rest(rows[:, :-1].contiguous(), rows[:, -1].contiguous())

    def log_weight(self, features: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead 1"]:
        """The logarithm of the sum over these words."""
        answer = functional.linear(features, self.weight, self.bias)
        return answer[..., -1:] + answer[..., :-1].square().sum(dim=-1, keepdim=True) / 2
