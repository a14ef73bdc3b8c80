"""The Simpler Simple Recurrent Unit: what may take the place of self-attention in a decoder."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.nn.product import Linear
from itda.nn.scan import gated_scan

Values = Float[Tensor, "batch time dim"]


class SSRU(nn.Module):
    """Carries the past in one vector a row (Kim et al. 2019, "From Research to Production and Back").

        f_t = sigmoid(W_f x_t + b_f)    c_t = f_t * c_{t-1} + (1 - f_t) * W x_t    h_t = relu(c_t)

    A step costs the same at each position, where self-attention reads all that was written before. No product
    depends on c, so both are done for all positions at once, and what is left over time is elementwise.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.map = Linear(dim, 2 * dim, bias=False)
        self.forget_bias = nn.Parameter(torch.ones(dim))

    def forward(self, values: Values) -> Values:
        """h at all positions."""
        forget, candidate = self._gate(values)
        return torch.relu(gated_scan(forget, (1 - forget) * candidate))

    def start(self, like: Float[Tensor, "rows 1 other"]) -> Float[Tensor, "rows dim"]:
        """c_0 = 0."""
        return like.new_zeros(len(like), self.dim, dtype=self.forget_bias.dtype)

    def step(
        self, values: Float[Tensor, "rows 1 dim"], cache: Float[Tensor, "rows dim"]
    ) -> tuple[Float[Tensor, "rows 1 dim"], Float[Tensor, "rows dim"]]:
        """One more position; the cache is c_{t-1}."""
        forget, candidate = self._gate(values[:, 0])
        cache = torch.lerp(candidate, cache, forget)  # candidate + f * (c - candidate)
        return torch.relu(cache)[:, None], cache

    def _gate(self, values: Float[Tensor, "*lead dim"]) -> tuple[Tensor, Tensor]:
        forget, candidate = self.map(values).chunk(2, dim=-1)
        forget = torch.sigmoid(forget + self.forget_bias)
        return forget, candidate.to(forget.dtype)  # under autocast the sum over time keeps its precision
