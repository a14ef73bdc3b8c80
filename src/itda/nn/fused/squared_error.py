"""Output layer and squared error in one: one node of the graph, where a step of the lecture's program has seven."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class _LinearSquaredError(torch.autograd.Function):
    """Keeps the errors, not the outputs: the gradient is theirs."""

    @staticmethod
    def forward(ctx: Any, features: Tensor, weight: Tensor, bias: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        rows = features.flatten(0, -2)
        errors = torch.addmm(bias, rows, weight.t()).sub_(target.flatten(0, -2))
        errors.masked_fill_(~mask.flatten()[:, None], 0.0)
        ctx.save_for_backward(features, weight, errors)
        return (errors * errors).sum() / len(weight)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, scale: Tensor) -> tuple[Tensor | None, ...]:
        features, weight, errors = ctx.saved_tensors
        grad = errors * (scale * (2 / len(weight)))
        return (grad @ weight).view(features.shape), grad.t() @ features.flatten(0, -2), grad.sum(0), None, None


def linear_squared_error(
    features: Float[Tensor, "rows tgt dim"],
    weight: Float[Tensor, "out dim"],
    bias: Float[Tensor, " out"],
    target: Float[Tensor, "rows tgt out"],
    mask: Bool[Tensor, "rows tgt"],
) -> Float[Tensor, ""]:
    """Sum |W x + b - y|^2 over real positions, averaged over the numbers of a vector; no second derivatives."""
    with torch.autocast(features.device.type, enabled=False):
        total: Tensor = _LinearSquaredError.apply(
            features.to(weight.dtype), weight, bias, target.to(weight.dtype), mask
        )
    return total
