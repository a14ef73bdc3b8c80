"""Cross-entropy of two passes over one target, and how far their distributions are apart, in one chunked function."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.nn.fused.chunk import chunk_products

Scalar = Float[Tensor, ""]


class _PairedCrossEntropy(torch.autograd.Function):
    """Computes the gradient together with the loss: of each pass, one chunk of logits exists at a time.

    With d = log p1 - log p2, the gradient of KL(p1 || p2) + KL(p2 || p1) by the logits of the first pass is
    p1 (d - KL(p1 || p2)) + p1 - p2, and by those of the second the same with the passes exchanged.
    """

    @staticmethod
    def forward(
        ctx: Any, first: Tensor, second: Tensor, weight: Tensor, bias: Tensor, target: Tensor, smoothing: float,
        strength: float,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        allowed = torch.isfinite(bias)
        even = allowed / allowed.sum(dtype=weight.dtype)  # what label smoothing mixes in
        nll, smooth, apart = (first.new_zeros(()) for _ in range(3))
        d_first, d_second = torch.empty_like(first), torch.empty_like(second)
        d_weight, d_bias = torch.zeros_like(weight), torch.zeros_like(bias)
        products = chunk_products(weight, bias, len(first))
        for rows in products.chunks():
            ids = target[rows, None]
            logs = [products.logits(one[rows]).log_softmax(1) for one in (first, second)]
            gap = (logs[0] - logs[1]).masked_fill_(~allowed, 0.0)
            nll -= sum(log.gather(1, ids).sum() for log in logs) / 2
            if smoothing:
                smooth -= sum((log.masked_fill(~allowed, 0.0) @ even).sum() for log in logs) / 2
            p = [log.exp_() for log in logs]
            for own, other, sign, given, out in (
                (p[0], p[1], 1.0, first, d_first),
                (p[1], p[0], -1.0, second, d_second),
            ):
                divergence = sign * (own * gap).sum(1, keepdim=True)
                apart += divergence.sum() / 2
                grad = own * (sign * gap - divergence) + own - other
                grad.mul_(strength / 4).add_(own, alpha=0.5)
                if smoothing:
                    grad -= even * (smoothing / 2)
                grad.scatter_add_(1, ids, grad.new_full(ids.shape, (smoothing - 1.0) / 2))
                products.to_rows(grad, out[rows])
                products.to_weight(grad, given[rows], d_weight)
                d_bias += grad.sum(0)
        ctx.save_for_backward(d_first, d_second, d_weight, d_bias)
        ctx.mark_non_differentiable(nll_only := nll.clone(), apart_only := apart.clone())
        return nll_only, (1.0 - smoothing) * nll + smoothing * smooth + strength / 2 * apart, apart_only

    @staticmethod
    def backward(ctx: Any, _nll: Tensor, scale: Tensor, _apart: Tensor) -> tuple[Tensor | None, ...]:
        return *(grad * scale for grad in ctx.saved_tensors), None, None, None


def paired_cross_entropy(
    first: Float[Tensor, "rows dim"],
    second: Float[Tensor, "rows dim"],
    weight: Float[Tensor, "vocab dim"],
    bias: Float[Tensor, " vocab"],
    target: Int[Tensor, " rows"],
    smoothing: float,
    strength: float,
) -> tuple[Scalar, Scalar, Scalar]:
    """Sum, over the rows, the mean nll of two passes, R-Drop's objective, and the divergence of the passes.

    The divergence is (KL(p1 || p2) + KL(p2 || p1)) / 2, and the objective, which alone carries gradients, is half of
    what Liang et al. 2021 (arXiv 2106.14448) minimise: mean cross-entropy + strength / 2 x divergence. So it
    stands beside the plain cross-entropy, and strength is the paper's alpha.
    """
    with torch.autocast(first.device.type, enabled=False):
        nll, objective, apart = _PairedCrossEntropy.apply(
            first.to(weight.dtype), second.to(weight.dtype), weight, bias, target, smoothing, strength
        )
    return nll, objective, apart
