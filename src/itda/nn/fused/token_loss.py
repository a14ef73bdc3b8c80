"""The cross-entropy of each row apart, differentiable: for objectives that weigh rows by what they find out first."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from itda.nn.fused.chunk import chunk_products


class _LinearTokenNll(torch.autograd.Function):
    """Keeps log Z of each row and makes the logits of a chunk again in backward: they never exist whole."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor) -> Tensor:
        products = chunk_products(weight, bias, len(features))
        log_z, nll = (features.new_empty(len(features)) for _ in range(2))
        for rows in products.chunks():
            logits = products.logits(features[rows])
            log_z[rows] = logits.logsumexp(1)
            nll[rows] = log_z[rows] - logits.gather(1, target[rows, None]).squeeze(1)
        ctx.save_for_backward(features, weight, bias, target, log_z)
        return nll

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, bias, target, log_z = ctx.saved_tensors
        products = chunk_products(weight, bias, len(features))
        d_features, d_weight, d_bias = torch.empty_like(features), torch.zeros_like(weight), torch.zeros_like(bias)
        for rows in products.chunks():
            grad = products.logits(features[rows]).sub_(log_z[rows, None]).exp_()
            grad.mul_(scale[rows, None]).scatter_add_(1, target[rows, None], -scale[rows, None])
            products.to_rows(grad, d_features[rows])
            products.to_weight(grad, features[rows], d_weight)
            d_bias += grad.sum(0)
            del grad  # or the next table would stand beside this one
        return d_features, d_weight, d_bias, None


def linear_token_nll(
    features: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    bias: Float[Tensor, " vocab"],
    target: Int[Tensor, " rows"],
) -> Float[Tensor, " rows"]:
    """-log softmax(W x + b)[target] of each row, with gradients; an entry whose bias is -inf is outside."""
    with torch.autocast(features.device.type, enabled=False):
        nll: Tensor = _LinearTokenNll.apply(features.to(weight.dtype), weight, bias, target)
    return nll
