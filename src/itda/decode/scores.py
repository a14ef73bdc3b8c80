"""The numbers that a search ranks by: length-normalised scores, and the best continuations of a sentence's beams."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from itda.batch import BOS, EOS, PAD, SPECIALS

Number = TypeVar("Number", float, Tensor, np.ndarray)

NORMALIZATIONS = ("average", "gnmt", "reward")
NEVER = (PAD, BOS)  # what no search may write
BLOCK = 64  # tokens that share a maximum


@dataclass(frozen=True)
class Scoring:
    """How a finished hypothesis is scored: its log-probability against its length (eos counts), and its coverage.

    `average`: log_prob / length ** strength. `gnmt`: log_prob / ((5 + length) / 6) ** strength (Wu et al. 2016,
    equation 14). `reward`: log_prob + strength x length, in nats a token. Each rises with the length where the
    log-probability stands still, so what a live hypothesis can still reach is its score at the longest length.

    `coverage` (beta) adds beta x sum_i log(min(sum_t alpha_{t,i}, 1)), which is 0 or less (the same equation).
    """

    normalization: str = "average"
    strength: float = 1.0
    coverage: float = 0.0

    def normalize(self, log_prob: Number, length: int | Number) -> Number:
        """Score a log-probability, coverage aside, so that long hypotheses are not at a disadvantage."""
        if self.normalization == "average":
            return log_prob / length**self.strength
        if self.normalization == "gnmt":
            return log_prob / ((5 + length) / 6) ** self.strength
        return log_prob + self.strength * length


def top_continuations(
    totals: Float[Tensor, "sentences width"], log_probs: Float[Tensor, "sentences width vocab"], count: int
) -> tuple[Float[Tensor, "sentences count"], Int[Tensor, "sentences count"], Int[Tensor, "sentences count"]]:
    """Find the `count` best sums total + log_prob of each sentence: the sums, best first, their beams and their tokens.

    The best `count` tokens can only lie in the `count` blocks of the vocabulary with the best maxima, so that only
    the maxima and these blocks are ranked (a topk over the whole costs more than the softmax). Equal sums are
    taken in a fixed order, the lower token first within a beam. Where there are fewer than `count`, the rest is -inf.
    """
    sentences, width, vocab = log_probs.shape
    num_blocks = (vocab - len(SPECIALS)) // BLOCK
    if width * num_blocks <= count:
        num_blocks = 0
    first = vocab - num_blocks * BLOCK  # tokens before this stand in no block: the specials and the odd ones
    front = log_probs[:, :, :first].clone()
    for token in NEVER:
        front[:, :, token] = -math.inf
    pool, odd = (totals[:, :, None] + front).flatten(1), width * first
    if not num_blocks:
        missing = max(0, count - odd)  # a vocabulary smaller than the beam
        sums, order = best(functional.pad(pool, (0, missing), value=-math.inf), count)
        order = order.where(order < odd, 0)
        return sums, order // first, order % first
    blocks = log_probs[:, :, first:].unflatten(2, (num_blocks, BLOCK))
    chosen = best((totals[:, :, None] + blocks.amax(dim=3)).flatten(1), count)[1].sort(dim=1).values
    beam, block = chosen // num_blocks, chosen % num_blocks
    sentence = torch.arange(sentences, device=pool.device)[:, None]
    inside = totals.gather(1, beam)[:, :, None] + blocks[sentence, beam, block]  # sentences count block
    sums, order = best(torch.cat([pool, inside.flatten(1)], dim=1), count)
    behind = (order - odd).clamp(min=0)
    place = behind // BLOCK  # which of the chosen blocks
    beams = torch.where(order < odd, order // first, beam.gather(1, place))
    tokens = torch.where(order < odd, order % first, first + block.gather(1, place) * BLOCK + behind % BLOCK)
    return sums, beams, tokens


def best_but_eos(
    log_probs: Float[Tensor, "rows vocab"],
) -> tuple[Float[Tensor, " rows"], Int[Tensor, " rows"]]:
    """Find the best token of each row that is neither eos nor one that is never written; of equals the lowest."""
    num_blocks = (log_probs.shape[1] - len(SPECIALS)) // BLOCK
    first = log_probs.shape[1] - num_blocks * BLOCK
    front = log_probs[:, :first].clone()
    for token in (*NEVER, EOS):
        front[:, token] = -math.inf
    value, place = front.max(dim=1)
    if not num_blocks:
        return value, place
    blocks = log_probs[:, first:].unflatten(1, (num_blocks, BLOCK))
    # A maximum with its place is slow over many numbers, so it is asked for among the maxima and within one block.
    behind, block = blocks.amax(dim=2).max(dim=1)
    inside = blocks[torch.arange(len(block), device=block.device), block].max(dim=1).indices
    ahead = ~(behind > value) & ~behind.isnan()
    return torch.where(ahead, value, behind), torch.where(ahead, place, first + block * BLOCK + inside)


def best(
    values: Float[Tensor, "rows places"], count: int
) -> tuple[Float[Tensor, "rows count"], Int[Tensor, "rows count"]]:
    """Do what topk does, with the lowest place first among equals (topk may take any of them).

    On a CPU, where asking costs nothing, only the rows with equals among their best are done again.
    """
    if values.device.type != "cpu":
        ranked, order = values.sort(dim=1, descending=True, stable=True)
        return ranked[:, :count], order[:, :count]
    ranked, order = values.topk(min(count + 1, values.shape[1]))  # one more, to see equals at the edge
    equals = (ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] > -math.inf)
    ranked, order = ranked[:, :count], order[:, :count]
    tied = equals.any(dim=1).nonzero().squeeze(1)
    if len(tied):
        order[tied] = _first_of_equals(values[tied], ranked[tied, -1:], order.shape[1])
    return ranked, order


def _first_of_equals(
    values: Float[Tensor, "rows places"], edge: Float[Tensor, "rows 1"], count: int
) -> Int[Tensor, "rows count"]:
    """Choose all places above the edge, then the first of those at the edge; much quicker than a whole sort."""
    downwards = torch.arange(values.shape[1], 0, -1, device=values.device)
    claim = (values >= edge) * downwards + (values > edge) * values.shape[1]
    chosen = claim.topk(count).indices  # in order of place, those above the edge first
    order = values.gather(1, chosen).sort(dim=1, descending=True, stable=True).indices
    return chosen.gather(1, order)
