"""Heads: from features to a distribution over the next target, and its loss."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from itda.batch import BOS, PAD, Side, Tokens, Vectors
from itda.nn.fused.loss import CHUNK, linear_cross_entropy
from itda.nn.interface import Decoded, Head, Memory, Sums
from itda.nn.product import linear


class SoftmaxHead(Head):
    """p(y_t) = softmax(W features + b); W may be the decoder's embedding table (tied).

    PAD and BOS can never follow, so they are outside the distribution: their probability is 0.
    """

    def __init__(
        self, dim: int, vocab_size: int, label_smoothing: float = 0.0, weight: nn.Parameter | None = None
    ) -> None:
        super().__init__()
        self.vocab_size, self.label_smoothing = vocab_size, label_smoothing
        self.weight = weight if weight is not None else nn.Parameter(torch.empty(vocab_size, dim))
        bias = torch.zeros(vocab_size)
        self.bias = nn.Parameter(bias)
        never = torch.zeros(vocab_size)
        never[[PAD, BOS]] = float("-inf")
        self.register_buffer("never", never, persistent=False)

    def loss(self, decoded: Decoded, target: Side, memory: Memory) -> Sums:
        """Cross-entropy over real positions, in chunks: the logits never exist whole."""
        assert isinstance(target, Tokens), "a softmax head needs token targets"
        features, ids = decoded.features[target.mask], target.ids[target.mask]
        nll, objective = linear_cross_entropy(features, self.weight, self.bias + self.never, ids, self.label_smoothing)
        return Sums(nll, objective, target.mask.sum())

    @torch.no_grad()
    def scores(
        self, decoded: Decoded, target: Side, memory: Memory
    ) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
        """The nll of each target token and whether it was the most probable one; 0 and False on padding."""
        assert isinstance(target, Tokens), "a softmax head needs token targets"
        nll = torch.zeros(target.ids.shape, dtype=decoded.features.dtype, device=target.ids.device)
        correct = torch.zeros_like(target.mask)
        parts_nll, parts_correct = [], []
        features, ids = decoded.features[target.mask], target.ids[target.mask]
        for chunk, wanted in zip(features.split(CHUNK), ids.split(CHUNK), strict=True):
            log_probs = self._log_softmax(chunk)
            parts_nll.append(-log_probs.gather(1, wanted[:, None]).squeeze(1))
            parts_correct.append(log_probs.argmax(1) == wanted)
        nll[target.mask], correct[target.mask] = torch.cat(parts_nll), torch.cat(parts_correct)
        return nll, correct

    def predict(self, decoded: Decoded, memory: Memory) -> Int[Tensor, "rows tgt"]:
        """The most probable token."""
        return (nn.functional.linear(decoded.features, self.weight, self.bias) + self.never).argmax(-1)

    def log_probs(
        self, decoded: Decoded, memory: Memory, candidates: Int[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, "rows tgt vocab"]:
        """Log-probabilities, normalised over `candidates` only where they are given."""
        return self._log_softmax(decoded.features, candidates)

    def _log_softmax(self, features: Tensor, candidates: Tensor | None = None) -> Tensor:
        weight, bias = self.weight, self.bias + self.never
        if candidates is not None:
            weight, bias = weight[candidates], bias[candidates]
        logits = linear(features, weight, bias)
        in_place = not torch.is_grad_enabled() and logits.device.type == "cpu"  # fresh memory costs more than the sums
        return torch.log_softmax(logits, dim=-1, out=logits if in_place else None)


class VectorHead(Head):
    """Predicts a real-valued vector; its loss is the squared error of the lecture's program.

    `nll` and `objective` are squared errors summed over positions and averaged over the vector's numbers,
    so that dividing by the count of positions gives torch's `mse_loss` over real positions.
    """

    def __init__(self, dim: int, out_dim: int) -> None:
        super().__init__()
        self.output = nn.Linear(dim, out_dim)

    def loss(self, decoded: Decoded, target: Side, memory: Memory) -> Sums:
        """Squared error over real positions."""
        errors = self._errors(decoded, target)[target.mask].sum()
        return Sums(errors, errors, target.mask.sum())

    @torch.no_grad()
    def scores(
        self, decoded: Decoded, target: Side, memory: Memory
    ) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
        """The squared error of each position; a vector is never 'correct', so the second answer is False."""
        return self._errors(decoded, target) * target.mask, torch.zeros_like(target.mask)

    def predict(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows tgt dim"]:
        """The predicted vector; gradients flow through it."""
        return self.output(decoded.features)

    def _errors(self, decoded: Decoded, target: Side) -> Tensor:
        assert isinstance(target, Vectors), "a vector head needs vector targets"
        return (self.output(decoded.features) - target.values).square().mean(-1)
