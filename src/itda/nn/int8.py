"""A trained model with int8 matrices, for use on a CPU: the same parts, with another product inside.

Rounded are the linear maps, the maps of a recurrent decoder's cells, and the output layer; each row of activations by
its own maximum (see `rounded`). Embeddings, attention itself, norms and torch's kernels over time stay as they are,
and so do small maps, where rounding costs more than the product saves.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from itda.batch import Side
from itda.nn.attention import ConcatAttention
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.factored_head import FactoredHead
from itda.nn.heads import SoftmaxHead, chunked_scores
from itda.nn.interface import Decoded, Head, Memory, Narrowing, Sums
from itda.nn.normed_cells import NormedGRUCell, NormedLSTMCell
from itda.nn.recurrent import Cell, GRUCell, LSTMCell
from itda.nn.recurrent_decoder import Stack
from itda.nn.rounded import Int8Linear, weight_limit
from itda.nn.screen import Screen

SMALLEST = 1 << 15  # numbers of a matrix
APART: dict[type[nn.Module], str] = {
    ConcatAttention: "joint_map",
    NormedLSTMCell: "input_map",
    NormedGRUCell: "input_map",
}
"""What is taken apart at each step, and so stays as it is."""


class Int8LSTMCell(LSTMCell):
    """An LSTM cell whose step has int8 products; its kernel over time stays as it was."""

    def __init__(self, cell: LSTMCell) -> None:
        nn.Module.__init__(self)
        self.dim, self.kernel = cell.dim, cell.kernel
        self.input_map = Int8Linear(cell.kernel.weight_ih_l0, cell.kernel.bias_ih_l0 + cell.kernel.bias_hh_l0)
        self.state_map = Int8Linear(cell.kernel.weight_hh_l0, None)

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_ih x + b; a part of x is mapped as it was."""
        return self.input_map(values) if values.shape[-1] == self.input_map.in_features else super().inputs(values)

    def recur(self, inputs: Float[Tensor, "rows gates"], hidden: Tensor) -> Float[Tensor, "rows gates"]:
        """W_ih x + W_hh h + b."""
        return self.state_map(hidden) + inputs


class Int8GRUCell(GRUCell):
    """A GRU cell whose step has int8 products; its kernel over time stays as it was."""

    def __init__(self, cell: GRUCell) -> None:
        nn.Module.__init__(self)
        self.dim, self.kernel = cell.dim, cell.kernel
        self.input_map = Int8Linear(cell.kernel.weight_ih_l0, cell.kernel.bias_ih_l0)
        self.state_map = Int8Linear(cell.kernel.weight_hh_l0, cell.kernel.bias_hh_l0)

    def inputs(self, values: Float[Tensor, "*lead input"]) -> Float[Tensor, "*lead gates"]:
        """W_ih x + b_ih; a part of x is mapped as it was."""
        return self.input_map(values) if values.shape[-1] == self.input_map.in_features else super().inputs(values)

    def recur(self, hidden: Tensor) -> Float[Tensor, "rows gates"]:
        """W_hh h + b_hh."""
        return self.state_map(hidden)


class Int8Head(Head):
    """A softmax head whose output layer is rounded; a shortlist's shared words are, and gathered ones are not."""

    def __init__(self, head: SoftmaxHead) -> None:
        super().__init__()
        self.exact, self.output = head, Int8Linear(head.weight, None)

    def log_probs(
        self, decoded: Decoded, memory: Memory, candidates: Int[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, "rows tgt vocab"]:
        """Log-probabilities, normalised over `candidates` only where they are given."""
        logits = self._logits(decoded.features)
        return torch.log_softmax(logits if candidates is None else logits[..., candidates], dim=-1)

    def scores(
        self, decoded: Decoded, target: Side, memory: Memory
    ) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
        """The nll of each target token and whether it was the most probable one; 0 and False on padding."""
        return chunked_scores(lambda chunk: torch.log_softmax(self._logits(chunk), dim=-1), decoded, target)

    def loss(self, decoded: Decoded, target: Side, memory: Memory) -> Sums:
        """Sum the nll over real positions; a rounded model is not trained."""
        nll = self.scores(decoded, target, memory)[0].sum()
        return Sums(nll, nll, target.mask.sum())

    def predict(self, decoded: Decoded, memory: Memory) -> Int[Tensor, "rows tgt"]:
        """The most probable token."""
        return self._logits(decoded.features).argmax(dim=-1)

    def narrow(self, shared: Int[Tensor, " shared"]) -> Narrowing:
        """Round the shared words."""
        weight, bias = self.exact.weight, self.exact.bias + self.exact.never
        return self.exact.narrow_with(shared, Int8Linear(weight[shared], bias[shared]))

    def screen(self) -> Screen | None:
        """There is none: what is exact is the rounded product itself."""
        return None

    def _logits(self, features: Float[Tensor, "*lead dim"]) -> Float[Tensor, "*lead vocab"]:
        return self.output(features).add_(self.exact.bias + self.exact.never)


def round_model(model: EncoderDecoder, smallest: int = SMALLEST) -> EncoderDecoder:
    """Put int8 products into a model, in place; matrices below `smallest` numbers stay as they are."""
    assert weight_limit(), "this machine has no exact int8 product"
    for parent in list(model.modules()):
        for name, part in list(parent.named_children()):
            whole = isinstance(part, nn.Linear) and APART.get(type(parent)) != name
            if whole and part.weight.numel() >= smallest:
                setattr(parent, name, Int8Linear(part.weight, part.bias))
        if isinstance(parent, Stack):
            parent.cells = nn.ModuleList(_round_cell(cell, smallest) for cell in parent.cells)
    if isinstance(model.head, FactoredHead):
        model.head.words = _round_head(model.head.words, smallest)
    else:
        model.head = _round_head(model.head, smallest)
    return model


def _round_cell(cell: Cell, smallest: int) -> Cell:
    """A cell with a kernel of torch's has its weights in there; the maps of others are rounded like all maps."""
    if not isinstance(cell, LSTMCell | GRUCell) or cell.kernel.weight_hh_l0.numel() < smallest:
        return cell
    return Int8LSTMCell(cell) if isinstance(cell, LSTMCell) else Int8GRUCell(cell)


def _round_head(head: Head, smallest: int) -> Head:
    return Int8Head(head) if isinstance(head, SoftmaxHead) and head.weight.numel() >= smallest else head
