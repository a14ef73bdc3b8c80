"""The products of a loop over time with one weight, by the quicker library (see `nn/product`).

A weight is used at each step, there and back: what a library wants laid out otherwise is laid out once a loop.
"""

from __future__ import annotations

import functools

import torch
from jaxtyping import Float
from torch import Tensor

from itda.nn.product import BLOCK, is_worthwhile, product, weight_gradient

Out = Float[Tensor, "rows out"]
Rows = Float[Tensor, "rows dim"]


class StepProducts:
    """W x for the rows of a step, and what the gradient of W x is for x; torch's own products."""

    def __init__(self, weight: Float[Tensor, "out dim"]) -> None:
        self.weight, self.turned = weight, weight.t()

    def of(self, rows: Rows) -> Out:
        """W x."""
        return torch.mm(rows, self.turned)

    def add(self, rows: Rows, total: Out) -> Out:
        """Add W x to `total`."""
        return total.addmm_(rows, self.turned)

    def write(self, rows: Rows, bias: Float[Tensor, "*rows out"], out: Out) -> Out:
        """Write W x + b; each row may have a b of its own."""
        return torch.addmm(bias, rows, self.turned, out=out)

    def back(self, grad: Out, onto: Rows | None = None) -> Rows:
        """The gradient of x, and what is in `onto` beside it."""
        return torch.mm(grad, self.weight) if onto is None else torch.addmm(onto, grad, self.weight)

    def add_back(self, grad: Out, total: Rows) -> Rows:
        """Add the gradient of x to `total`."""
        return total.addmm_(grad, self.weight)


class OneDNNStepProducts(StepProducts):
    """The same by oneDNN, which gives each answer a table of its own and wants both factors laid out row by row."""

    def __init__(self, weight: Float[Tensor, "out dim"]) -> None:
        self.weight = weight.contiguous()

    @functools.cached_property
    def turned(self) -> Float[Tensor, "dim out"]:  # type: ignore[override]
        """The weight as gradients read it, laid out when the first one comes."""
        return self.weight.t().contiguous()

    def of(self, rows: Rows) -> Out:
        """W x."""
        return product(rows, self.weight)

    def add(self, rows: Rows, total: Out) -> Out:
        """Add W x to `total`."""
        return total.add_(product(rows, self.weight))

    def write(self, rows: Rows, bias: Float[Tensor, "*rows out"], out: Out) -> Out:
        """Write W x + b; each row may have a b of its own."""
        if bias.dim() == 2:
            return torch.add(bias, product(rows, self.weight), out=out)
        for start in range(0, len(rows), BLOCK):
            out[start : start + BLOCK] = product(rows[start : start + BLOCK], self.weight, bias)
        return out

    def back(self, grad: Out, onto: Rows | None = None) -> Rows:
        """The gradient of x, and what is in `onto` beside it."""
        answer = product(grad, self.turned)
        return answer if onto is None else answer.add_(onto)

    def add_back(self, grad: Out, total: Rows) -> Rows:
        """Add the gradient of x to `total`."""
        return total.add_(product(grad, self.turned))


def step_products(weight: Float[Tensor, "out dim"], rows: int) -> StepProducts:
    """Choose for steps of so many rows."""
    return OneDNNStepProducts(weight) if is_worthwhile(rows, weight) else StepProducts(weight)


def over_time(
    gradients: Float[Tensor, "time rows out"], values: Float[Tensor, "time rows dim"]
) -> Float[Tensor, "out dim"]:
    """The gradient of a weight that was applied at each position, as one product."""
    return weight_gradient(gradients.flatten(0, 1), values.flatten(0, 1))
