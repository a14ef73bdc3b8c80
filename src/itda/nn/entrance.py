"""What stands between an embedding and a stack of layers that needs scaled inputs and positions."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor, nn

from itda.nn.embedding import SequenceDropout
from itda.nn.positions import Positions


class Entrance(nn.Module):
    """What the layers read: embeddings, scaled to unit variance and to `dim` numbers, with positions and dropout."""

    def __init__(self, scale: float, width: nn.Module, positions: Positions, dropout: SequenceDropout) -> None:
        super().__init__()
        self.scale, self.width, self.positions, self.dropout = scale, width, positions, dropout

    def forward(
        self,
        embedded: Float[Tensor, "batch time embedding"],
        start: int = 0,
        mask: Float[Tensor, "batch dim"] | None = None,
    ) -> Float[Tensor, "batch time dim"]:
        """Prepare some positions, the first of which is `start`."""
        scaled = embedded if self.scale == 1.0 else embedded * self.scale
        wide = self.width(scaled).to(embedded.dtype)  # under autocast the sum of all branches keeps its precision
        return self.dropout(self.positions(wide, start), mask)
