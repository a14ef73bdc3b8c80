"""The convolutional encoder (Gehring et al. 2017, arXiv 1705.03122)."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from itda.batch import Side
from itda.nn.embedding import Embedder, SequenceDropout
from itda.nn.entrance import Entrance
from itda.nn.interface import Encoder, Memory, mean_state
from itda.nn.product import Linear

Values = Float[Tensor, "batch time dim"]


class GatedConvolution(nn.Module):
    """(A * x) * sigmoid(B * x) over a window of `width` positions, an odd number, the middle one its own.

    The window is laid side by side and mapped by one product.
    """

    def __init__(self, dim: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.map = Linear(width * dim, 2 * dim)

    def forward(self, values: Values) -> Values:
        """All positions; beyond the ends there are zeros."""
        time = values.shape[1]
        wide = functional.pad(values, (0, 0, self.width // 2, self.width // 2))
        windows = torch.cat([wide[:, start : start + time] for start in range(self.width)], dim=-1)
        return functional.glu(self.map(windows), dim=-1)


class ConvolutionEncoder(Encoder):
    """Reads the source with gated convolutions and residuals; the summary is the mean over real positions, ((mean,),).

    A position sees (width - 1) / 2 neighbours on each side for each layer. Sinusoidal positions are added
    to the input (the paper's are learned). A sum of two is scaled by sqrt(0.5), so that variances stay.
    """

    def __init__(
        self,
        embed: Embedder,
        entrance: Entrance,
        layers: Sequence[GatedConvolution],
        dropout: SequenceDropout,
        dim: int,
    ) -> None:
        super().__init__()
        self.embed, self.entrance, self.dropout, self.dim = embed, entrance, dropout, dim
        self.layers = nn.ModuleList(layers)

    def forward(self, src: Side) -> Memory:
        """Encode all positions at once; padding is zero before each layer, as what lies beyond the ends is."""
        padding: Bool[Tensor, "batch time 1"] = ~src.mask[..., None]
        values = self.entrance(self.embed(src.values).masked_fill(padding, 0.0)).masked_fill(padding, 0.0)
        for layer in self.layers:
            values = ((values + layer(self.dropout(values))) * math.sqrt(0.5)).masked_fill(padding, 0.0)
        return Memory(values, src.mask, ((mean_state(values, src.mask),),))
