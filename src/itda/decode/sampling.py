"""Sampling: each token is drawn, by a coin that depends on nothing but the seed, the source and the place.

The coin of (seed, source, sample, position) is hashed, not drawn from a generator that others draw from too
(docs/design/0006), so neighbours, batch size and order change nothing. Equal sources have equal samples.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda.batch import EOS
from itda.decode.history import Step
from itda.decode.ranking import Front, close_at_limit, make_step
from itda.decode.scores import NEVER
from itda.errors import UserError

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX = (np.uint64(0xBF58476D1CE4E5B9), np.uint64(0x94D049BB133111EB))


@dataclass(frozen=True)
class Sampling:
    """How tokens are drawn: what the one before has left is cut by the next, in this order.

    `temperature` divides the log-probabilities; `top_k` keeps the k most probable tokens (0: all); `top_p` the fewest
    whose probabilities sum to p (Holtzman et al. 2020); `min_p` those with at least this share of the most
    probable one's (Nguyen et al. 2024).
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 1

    def check(self) -> None:
        """Refuse what makes no distribution."""
        if not 0 < self.temperature < math.inf:
            raise UserError(
                f"temperature is {self.temperature}; it must be more than 0 (for greedy search, leave sampling out)"
            )
        if self.top_k < 0:
            raise UserError(f"top_k is {self.top_k}; it must be 0 (all tokens) or more")
        if not 0 < self.top_p <= 1:
            raise UserError(f"top_p is {self.top_p}; it must be more than 0, and 1 (all tokens) at the most")
        if not 0 <= self.min_p <= 1:
            raise UserError(f"min_p is {self.min_p}; it must be from 0 (all tokens) to 1")
        if self.seed < 0:
            raise UserError(f"seed is {self.seed}; it must be 0 or more")


def sample_keys(seed: int, sources: Sequence[Sequence[int]], samples: int) -> np.ndarray:
    """Hash (seed, source, sample) into one number for each sample of each source, source by source."""
    keys = []
    for ids in sources:
        source = hashlib.blake2b(f"{seed}:{','.join(map(str, ids))}".encode(), digest_size=8).digest()
        for sample in range(samples):
            digest = hashlib.blake2b(sample.to_bytes(8, "little"), key=source, digest_size=8).digest()
            keys.append(int.from_bytes(digest, "little"))
    return np.array(keys, dtype=np.uint64)


def coins(keys: np.ndarray, position: int) -> np.ndarray:
    """Draw a number in [0, 1) for each key at this position (SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        mixed = keys + _GOLDEN * np.uint64(position + 1)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * _MIX[0]
        mixed = (mixed ^ (mixed >> np.uint64(27))) * _MIX[1]
        mixed = mixed ^ (mixed >> np.uint64(31))
    return (mixed >> np.uint64(11)) * 2.0**-53


def truncated(log_probs: Float[Tensor, "rows vocab"], sampling: Sampling) -> Float[Tensor, "rows vocab"]:
    """Give the probabilities that are drawn from; they sum to 1, and to 0 where nothing may follow."""
    kept = (log_probs if log_probs.device.type == "mps" else log_probs.double()) / sampling.temperature
    if 0 < sampling.top_k < kept.shape[1]:
        edge = kept.topk(sampling.top_k, dim=1).values[:, -1:]
        kept = kept.masked_fill(kept < edge, -math.inf)
    if sampling.top_p < 1:
        ranked, order = kept.softmax(dim=1).sort(dim=1, descending=True, stable=True)
        before = ranked.cumsum(dim=1) - ranked  # what stands in front: the first is always kept
        kept = kept.masked_fill((before >= sampling.top_p).scatter(1, order, before >= sampling.top_p), -math.inf)
    if sampling.min_p > 0:
        kept = kept.masked_fill(kept < kept.amax(dim=1, keepdim=True) + math.log(sampling.min_p), -math.inf)
    return kept.softmax(dim=1).nan_to_num(0.0)


def draw(
    probabilities: Float[Tensor, "rows vocab"], numbers: Float[Tensor, " rows"]
) -> tuple[Int[Tensor, " rows"], Bool[Tensor, " rows"]]:
    """Find the token in which each number in [0, 1) falls; tokens stand in the order of their ids, whatever the sums.

    The second answer is False where there is nothing to draw from.
    """
    ends = probabilities.cumsum(dim=1)
    aim = (numbers.to(ends) * ends[:, -1])[:, None]
    tokens = torch.searchsorted(ends, aim, right=True).squeeze(1).clamp(max=ends.shape[1] - 1)
    possible = probabilities.gather(1, tokens[:, None]).squeeze(1) > 0
    # The last of the sum may be lost to rounding: then the most probable token is as good as any.
    tokens = torch.where(possible, tokens, probabilities.argmax(dim=1))
    return tokens, ends[:, -1] > 0


@dataclass(frozen=True)
class ChooseSample:
    """Draw one token for each sample; a sample is a beam of one row. Sums are of the model's own log-probabilities."""

    sampling: Sampling
    keys: np.ndarray  # of each beam of the whole search

    def __call__(self, front: Front, beam_size: int) -> Step:
        """Draw; eos closes, all else lives on."""
        assert beam_size == 1, "a sample has one row"
        log_probs = front.log_probs[:, 0].clone()
        log_probs[:, NEVER] = -math.inf
        numbers = torch.from_numpy(coins(self.keys[front.places], front.position)).to(front.totals)
        tokens, possible = draw(truncated(log_probs, self.sampling), numbers)
        is_eos = tokens == EOS
        sums = front.totals[:, 0] + front.own[:, 0].gather(1, tokens[:, None])[:, 0]
        going_on = sums.masked_fill(is_eos | ~possible, -math.inf)[:, None]
        live = close_at_limit(front, going_on)
        step = make_step(front, live, torch.zeros_like(tokens)[:, None], tokens[:, None], (is_eos & possible)[:, None])
        return _own_sums(front, step)


def _own_sums(front: Front, step: Step) -> Step:
    """Close with the model's own log-probability of eos, where eos was allowed at all."""
    own = front.totals + step.eos_log_probs
    closed = torch.where(step.closed > -math.inf, own, step.closed)
    return Step(step.tokens, step.parents, step.totals, step.log_probs, closed, step.eos_log_probs)
