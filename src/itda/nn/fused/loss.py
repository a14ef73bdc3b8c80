"""Output layer and cross-entropy in one: the `tokens x vocabulary` table never exists whole."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.nn.fused.chunk import chunk_products


class _LinearCrossEntropy(torch.autograd.Function):
    """Computes the gradient together with the loss, chunk by chunk, so that no logits are kept for backward."""

    @staticmethod
    def forward(
        ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float
    ) -> tuple[Tensor, Tensor]:
        allowed = torch.isfinite(bias)
        number = allowed.sum(dtype=features.dtype)
        if smoothing:  # the mean logit of a row is its product with the mean column
            mean_weight = weight[allowed].mean(0)
            mean_bias = bias[allowed].mean()
        nll = features.new_zeros(())
        smooth = features.new_zeros(())
        wanted_grad = any(ctx.needs_input_grad[:3])
        d_features = torch.empty_like(features) if wanted_grad else None
        d_weight = torch.zeros_like(weight) if wanted_grad else None
        d_bias = torch.zeros_like(bias) if wanted_grad else None
        products = chunk_products(weight, bias, len(features))
        for part in products.chunks():
            rows, ids = features[part], target[part]
            logits = products.logits(rows)
            picked = logits.gather(1, ids[:, None]).squeeze(1)
            top = logits.amax(1)
            softmax = torch.softmax(logits, 1, out=logits)  # quicker than its parts
            log_z = top - softmax.amax(1).log()
            nll += (log_z - picked).sum()
            if smoothing:
                smooth += (log_z - rows @ mean_weight - mean_bias).sum()
            if d_features is None or d_weight is None or d_bias is None:
                continue
            grad = softmax  # minus the smoothed one-hot target
            if smoothing:
                grad -= (smoothing / number) * allowed
            grad.scatter_add_(1, ids[:, None], torch.full_like(picked, smoothing - 1.0)[:, None])
            products.to_rows(grad, d_features[part])
            products.to_weight(grad, rows, d_weight)
            d_bias += grad.sum(0)
            del logits, softmax, grad  # or the next table would stand beside this one
        ctx.save_for_backward(d_features, d_weight, d_bias)
        ctx.mark_non_differentiable(nll_only := nll.clone())
        return nll_only, (1.0 - smoothing) * nll + smoothing * smooth

    @staticmethod
    def backward(ctx: Any, _nll: Tensor, scale: Tensor) -> tuple[Tensor | None, ...]:
        d_features, d_weight, d_bias = ctx.saved_tensors
        return d_features * scale, d_weight * scale, d_bias * scale, None, None


def linear_cross_entropy(
    features: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    bias: Float[Tensor, " vocab"],
    target: Int[Tensor, " rows"],
    smoothing: float = 0.0,
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Sum -log softmax(W x + b)[target], and the label-smoothed objective, which alone carries gradients.

    The smoothing mass is spread evenly over the entries whose bias is finite (Szegedy et al. 2016). Equal in
    value and gradient to `cross_entropy(linear(x, W, b), target)`; second derivatives are not offered.
    """
    with torch.autocast(features.device.type, enabled=False):
        nll, objective = _LinearCrossEntropy.apply(features.to(weight.dtype), weight, bias, target, smoothing)
    return nll, objective
