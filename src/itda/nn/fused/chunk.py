"""The three products of an output layer, a chunk of rows at a time, by the quicker library (see `nn/product`)."""

from __future__ import annotations

import functools
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from itda.nn.product import has_alternative, product

CHUNK = 512  # rows of logits that exist at a time: large enough for full GEMM speed, small enough for cache
FEW = 32  # rows below which a chunk is not worth a program of its own


class ChunkProducts:
    """Logits of some rows, and what their gradient is for the rows and for the weight; torch's own products.

    The logits are written where those of the chunk before stood: the pages of a new table cost as much as the product.
    """

    def __init__(self, weight: Float[Tensor, "vocab dim"], bias: Float[Tensor, " vocab"], rows: int) -> None:
        self.weight, self.bias, self.rows = weight, bias, rows

    @functools.cached_property
    def buffer(self) -> Float[Tensor, "rows vocab"]:
        """Room for the logits of a chunk."""
        return self.weight.new_empty(min(CHUNK, self.rows), len(self.weight))

    def chunks(self) -> Iterator[slice]:
        """Cut all rows into chunks."""
        return (slice(start, start + CHUNK) for start in range(0, self.rows, CHUNK))

    def logits(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocab"]:
        """W x + b; the caller may write over it."""
        return torch.addmm(self.bias, rows, self.weight.t(), out=self.buffer[: len(rows)])

    def to_rows(self, grad: Float[Tensor, "rows vocab"], out: Float[Tensor, "rows dim"]) -> None:
        """Write the gradient of the rows."""
        torch.mm(grad, self.weight, out=out)

    def to_weight(self, grad: Float[Tensor, "rows vocab"], rows: Float[Tensor, "rows dim"], total: Tensor) -> None:
        """Add the gradient of the weight."""
        total.addmm_(grad.t(), rows)


class OneDNNProducts(ChunkProducts):
    """The same by oneDNN, which gives each answer a table of its own and wants both factors laid out row by row."""

    def chunks(self) -> Iterator[slice]:
        """Cut all rows into chunks, and what is left at the end into a multiple of `FEW` and a rest.

        oneDNN writes a program for each number of rows that it meets, and keeps it: some 3 MB for these products.
        The rest is left to torch.
        """
        start = 0
        while start < self.rows:
            left = self.rows - start
            size = CHUNK if left >= CHUNK else left // FEW * FEW or left
            yield slice(start, start + size)
            start += size

    @functools.cached_property
    def turned(self) -> Float[Tensor, "dim vocab"]:
        """The weight as gradients read it, laid out when the first one comes."""
        return self.weight.t().contiguous()

    @functools.cached_property
    def room(self) -> Float[Tensor, " numbers"]:
        """Where the gradient of each chunk is laid out for the weight's: fresh pages would take twice the time."""
        return self.weight.new_empty(min(CHUNK, self.rows) * len(self.weight))

    def logits(self, rows: Float[Tensor, "rows dim"]) -> Float[Tensor, "rows vocab"]:
        """W x + b; the caller may write over it."""
        if len(rows) < FEW:
            return torch.addmm(self.bias, rows, self.weight.t())
        return product(rows, self.weight, self.bias)

    def to_rows(self, grad: Float[Tensor, "rows vocab"], out: Float[Tensor, "rows dim"]) -> None:
        """Write the gradient of the rows."""
        if len(grad) < FEW:
            super().to_rows(grad, out)
        else:
            out.copy_(product(grad, self.turned))

    def to_weight(self, grad: Float[Tensor, "rows vocab"], rows: Float[Tensor, "rows dim"], total: Tensor) -> None:
        """Add the gradient of the weight."""
        if len(grad) < FEW:
            super().to_weight(grad, rows, total)
        else:
            laid = self.room[: grad.numel()].view(grad.shape[1], -1).copy_(grad.t())
            total += product(laid, rows.t().contiguous())


def chunk_products(weight: Float[Tensor, "vocab dim"], bias: Float[Tensor, " vocab"], rows: int) -> ChunkProducts:
    """Choose for so many rows."""
    kind = OneDNNProducts if has_alternative(weight, weight) else ChunkProducts
    return kind(weight, bias, rows)
