"""Heads: from features to a distribution over the next target, and its loss."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from itda.batch import BOS, PAD, Batch, Side, Tokens, Vectors
from itda.nn.fused.chunk import CHUNK
from itda.nn.fused.loss import linear_cross_entropy
from itda.nn.fused.paired_loss import paired_cross_entropy
from itda.nn.fused.squared_error import linear_squared_error
from itda.nn.fused.token_loss import linear_token_nll
from itda.nn.interface import Decoded, Decoder, Head, Memory, Narrow, Narrowing, Sums
from itda.nn.product import linear
from itda.nn.rest import Rest
from itda.nn.screen import Screen

Map = Callable[[Float[Tensor, "rows tgt dim"]], Float[Tensor, "rows tgt shared"]]


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

    def token_nll(self, decoded: Decoded, target: Side, memory: Memory) -> Float[Tensor, "rows tgt"]:
        """-log p of each target token, with gradients; 0 on padding."""
        assert isinstance(target, Tokens), "a softmax head needs token targets"
        features, ids = decoded.features[target.mask], target.ids[target.mask]
        nll = linear_token_nll(features, self.weight, self.bias + self.never, ids)
        return torch.zeros(target.ids.shape, dtype=nll.dtype, device=nll.device).masked_scatter(target.mask, nll)

    def paired_loss(self, first: Decoded, second: Decoded, target: Side, strength: float) -> Sums:
        """The mean cross-entropy of two passes and their divergence, in chunks."""
        assert isinstance(target, Tokens), "a softmax head needs token targets"
        nll, objective, apart = paired_cross_entropy(
            first.features[target.mask], second.features[target.mask], self.weight, self.bias + self.never,
            target.ids[target.mask], self.label_smoothing, strength,
        )  # fmt: skip
        return Sums(nll, objective, target.mask.sum(), {"divergence": apart})

    def narrow(self, shared: Int[Tensor, " shared"]) -> Narrowing:
        """Gather the shared rows of W, and measure the others, once for many searches."""
        shared_map = functools.partial(linear, weight=self.weight[shared], bias=(self.bias + self.never)[shared])
        return self.narrow_with(shared, shared_map)

    def narrow_with(self, shared: Int[Tensor, " shared"], shared_map: Map) -> Narrowing:
        """The same, with another product for the shared words."""
        weight, bias = self.weight, self.bias + self.never
        others = torch.ones(self.vocab_size, dtype=torch.bool, device=shared.device)
        others[shared] = False
        others[[PAD, BOS]] = False
        rest, number = Rest.of(weight[others], bias[others]), int(others.sum())

        def narrowed(own: Int[Tensor, "sentences own"]) -> NarrowSoftmax:
            left = 1 - (own != PAD).sum(dim=1) / max(number, 1)
            return NarrowSoftmax(shared_map, weight[own], bias[own], left.to(weight.dtype).log(), rest)

        return narrowed

    def screen(self) -> Screen | None:
        """Round W to int8, where the machine multiplies such numbers exactly."""
        return Screen.of(self.weight, self.bias + self.never)

    def _log_softmax(self, features: Tensor, candidates: Tensor | None = None) -> Tensor:
        weight, bias = self.weight, self.bias + self.never
        if candidates is not None:
            weight, bias = weight[candidates], bias[candidates]
        logits = linear(features, weight, bias)
        in_place = not torch.is_grad_enabled() and logits.device.type == "cpu"  # fresh memory costs more than the sums
        return torch.log_softmax(logits, dim=-1, out=logits if in_place else None)


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
    What the others weigh in the normaliser is estimated (see `rest`): `left` is the logarithm of the share of words
    that are neither shared nor the sentence's own.
    """

    shared_map: Map
    own_weight: Float[Tensor, "sentences own dim"]
    own_bias: Float[Tensor, "sentences own"]
    left: Float[Tensor, " sentences"]
    rest: Rest | None

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows tgt candidates"]:
        """Two products; the rows of a sentence (beams, positions) share what was gathered for it."""
        features = decoded.features
        shared = self.shared_map(features)
        queries = features.reshape(len(self.own_weight), -1, features.shape[2])
        own = torch.baddbmm(self.own_bias[:, None], queries, self.own_weight.transpose(1, 2))
        logits = torch.cat([shared, own.view(*shared.shape[:2], -1)], dim=-1)
        normaliser = logits.logsumexp(dim=-1, keepdim=True)
        if self.rest is not None:
            left = self.left.repeat_interleave(len(features) // len(self.left))[:, None, None]
            normaliser = torch.logaddexp(normaliser, self.rest.log_weight(features) + left)
        return logits - normaliser

    def select(self, sentences: Int[Tensor, " kept"]) -> NarrowSoftmax:
        """Keep some sentences."""
        own_weight, own_bias, left = self.own_weight[sentences], self.own_bias[sentences], self.left[sentences]
        return replace(self, own_weight=own_weight, own_bias=own_bias, left=left)


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
        assert isinstance(target, Vectors), "a vector head needs vector targets"
        errors = linear_squared_error(
            decoded.features, self.output.weight, self.output.bias, target.values, target.mask
        )
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

    def rollout_loss(
        self, decoder: Decoder, batch: Batch, memory: Memory, shown: Bool[Tensor, "rows tgt"]
    ) -> Sums | None:
        """Squared error over real positions, where the decoder has one function for it."""
        target, output = batch.tgt_out, (self.output.weight, self.output.bias)
        errors = decoder.rollout_error(batch.tgt_in, memory, shown, output, target)
        return None if errors is None else Sums(errors, errors, target.mask.sum())

    def _errors(self, decoded: Decoded, target: Side) -> Tensor:
        assert isinstance(target, Vectors), "a vector head needs vector targets"
        return (self.output(decoded.features) - target.values).square().mean(-1)
