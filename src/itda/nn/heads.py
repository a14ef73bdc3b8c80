"""Heads: from features to a distribution over the next target, and its loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from itda.batch import BOS, PAD, Side, Tokens, Vectors
from itda.nn.fused.loss import CHUNK, linear_cross_entropy
from itda.nn.interface import Decoded, Head, Memory, Narrow, Sums
from itda.nn.screen import Screen


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
        return chunked_scores(self._log_softmax, decoded, target)

    def predict(self, decoded: Decoded, memory: Memory) -> Int[Tensor, "rows tgt"]:
        """The most probable token."""
        return (nn.functional.linear(decoded.features, self.weight, self.bias) + self.never).argmax(-1)

    def log_probs(
        self, decoded: Decoded, memory: Memory, candidates: Int[Tensor, " candidates"] | None = None
    ) -> Float[Tensor, "rows tgt vocab"]:
        """Log-probabilities, normalised over `candidates` only where they are given."""
        return self._log_softmax(decoded.features, candidates)

    def narrow(self, shared: Int[Tensor, " shared"], own: Int[Tensor, "sentences own"]) -> NarrowSoftmax:
        """Gather the rows of W that each sentence needs, once for a search."""
        weight, bias = self.weight, self.bias + self.never
        shared_map = functools.partial(nn.functional.linear, weight=weight[shared], bias=bias[shared])
        return NarrowSoftmax(shared_map, weight[own], bias[own])

    def screen(self) -> Screen | None:
        """Round W to int8, where the machine multiplies such numbers exactly."""
        return Screen.of(self.weight, self.bias + self.never)

    def _log_softmax(self, features: Tensor, candidates: Tensor | None = None) -> Tensor:
        weight, bias = self.weight, self.bias + self.never
        if candidates is not None:
            weight, bias = weight[candidates], bias[candidates]
        return torch.log_softmax(nn.functional.linear(features, weight, bias), dim=-1)


def chunked_scores(
    log_softmax: Callable[[Float[Tensor, "positions dim"]], Float[Tensor, "positions vocab"]],
    decoded: Decoded,
    target: Side,
) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
    """The nll of each target token and whether it was the most probable one, a chunk of positions at a time."""
    assert isinstance(target, Tokens), "a softmax head needs token targets"
    nll = torch.zeros(target.ids.shape, dtype=decoded.features.dtype, device=target.ids.device)
    correct = torch.zeros_like(target.mask)
    parts_nll, parts_correct = [], []
    features, ids = decoded.features[target.mask], target.ids[target.mask]
    for chunk, wanted in zip(features.split(CHUNK), ids.split(CHUNK), strict=True):
        log_probs = log_softmax(chunk)
        parts_nll.append(-log_probs.gather(1, wanted[:, None]).squeeze(1))
        parts_correct.append(log_probs.argmax(1) == wanted)
    nll[target.mask], correct[target.mask] = torch.cat(parts_nll), torch.cat(parts_correct)
    return nll, correct


@dataclass(frozen=True)
class NarrowSoftmax(Narrow):
    """softmax(W_s features + b_s), where W_s are the rows of W for the few words of sentence s.

    Those that all sentences share are one product; a sentence's own are gathered, and are a product by themselves.
    """

    shared_map: Callable[[Float[Tensor, "rows tgt dim"]], Float[Tensor, "rows tgt shared"]]
    own_weight: Float[Tensor, "sentences own dim"]
    own_bias: Float[Tensor, "sentences own"]

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows tgt candidates"]:
        """Two products; the rows of a sentence (beams, positions) share what was gathered for it."""
        features = decoded.features
        shared = self.shared_map(features)
        queries = features.reshape(len(self.own_weight), -1, features.shape[2])
        own = torch.baddbmm(self.own_bias[:, None], queries, self.own_weight.transpose(1, 2))
        return torch.log_softmax(torch.cat([shared, own.view(*shared.shape[:2], -1)], dim=-1), dim=-1)

    def select(self, sentences: Int[Tensor, " kept"]) -> NarrowSoftmax:
        """Keep some sentences."""
        return replace(self, own_weight=self.own_weight[sentences], own_bias=self.own_bias[sentences])


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
