"""The feed-forward layer of a Transformer: each position by itself, through a wider space."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from itda.nn.product import Linear, linear_relu


class FeedForward(nn.Module):
    """W_2 f(W_1 x) with f ReLU or GELU; swiglu: W_2 (silu(W_g x) * W_1 x) (Shazeer 2020, arXiv 2002.05202)."""

    def __init__(self, dim: int, ffn_dim: int, activation: str) -> None:
        super().__init__()
        self.activation = activation
        self.map = Linear(dim, 2 * ffn_dim if activation == "swiglu" else ffn_dim)
        self.output = Linear(ffn_dim, dim)

    def forward(self, values: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time dim"]:
        """Widen, bend, narrow."""
        return self.output(self.widen(values))

    def widen(self, values: Float[Tensor, "batch time dim"]) -> Float[Tensor, "batch time ffn_dim"]:
        """What the output map is to read."""
        if self.activation == "relu" and isinstance(self.map, Linear):
            return linear_relu(values, self.map.weight, self.map.bias)
        wide = self.map(values)
        match self.activation:
            case "relu":
                return functional.relu(wide)
            case "gelu":
                return functional.gelu(wide)
        gate, values = wide.chunk(2, dim=-1)
        return functional.silu(gate) * values
