"""How a search chooses, at each step, what closes and what lives on; this is the plain way, by log-probability."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from itda.batch import EOS
from itda.decode.history import Step
from itda.decode.scores import best, best_but_eos, top_continuations


@dataclass(frozen=True)
class Front:
    """What there is to choose from: for each beam in the batch its rows' sums, and each row's continuations.

    `log_probs` are what the search ranks by: those of the model where no rule changed them, and then the very same
    tensor as `own`. `eos` are the model's own of eos. Where `at_limit`, only eos may follow. `places` tells which
    beams of the whole search are there.
    """

    totals: Float[Tensor, "beams width"]
    log_probs: Float[Tensor, "beams width vocab"]
    own: Float[Tensor, "beams width vocab"]
    eos: Float[Tensor, "beams width"]
    at_limit: Bool[Tensor, " beams"] | None
    position: int
    places: np.ndarray


Choose = Callable[[Front, int], Step]
"""A way to choose `beam_size` rows of each beam to go on with."""


def choose_best(front: Front, beam_size: int) -> Step:
    """Let eos close where it is among the best `beam` continuations, and the best `beam` others live on."""
    # Sums in float32 would make equals of words that are not.
    alone = beam_size == 1 and front.totals.dtype is torch.float64
    return choose_greedily(front) if alone else choose_by_rank(front, beam_size)


def choose_by_rank(front: Front, beam_size: int) -> Step:
    """Rank the best 2 x beam continuations, for those among them that end with eos."""
    totals, log_probs = front.totals, front.log_probs
    sums, parents, tokens = top_continuations(totals, log_probs, 2 * beam_size)
    is_eos = tokens == EOS
    # One place beyond the rows takes what does not close.
    closing = torch.where(is_eos[:, :beam_size], parents[:, :beam_size], totals.shape[1])
    closes = torch.zeros(len(totals), totals.shape[1] + 1, dtype=torch.bool, device=totals.device)
    closes = closes.scatter_(1, closing, True)[:, :-1]
    going_on = sums.masked_fill(is_eos, -math.inf)
    live, order = best(close_at_limit(front, going_on), beam_size)
    parents, tokens = parents.gather(1, order), tokens.gather(1, order)
    return make_step(front, live, parents, tokens, closes)


def choose_greedily(front: Front) -> Step:
    """Do the same for a beam of one row, by a maximum, which takes a tenth of the time of a ranking."""
    log_probs = front.log_probs[:, 0]
    best_word, token = best_but_eos(log_probs)
    eos = log_probs[:, EOS]
    closes = (eos > best_word) | ((eos == best_word) & (token > EOS))
    going_on = close_at_limit(front, front.totals + best_word[:, None])
    return make_step(front, going_on, torch.zeros_like(token)[:, None], token[:, None], closes[:, None])


def close_at_limit(front: Front, going_on: Float[Tensor, "beams count"]) -> Float[Tensor, "beams count"]:
    """Let nothing live on where a beam has met its limit."""
    return going_on if front.at_limit is None else going_on.masked_fill(front.at_limit[:, None], -math.inf)


def make_step(front: Front, live: Tensor, parents: Tensor, tokens: Tensor, closes: Tensor) -> Step:
    """Put together what was chosen; where a beam has met its limit, all of its rows close."""
    if front.at_limit is not None:
        closes = closes | front.at_limit[:, None]
    sentence = torch.arange(len(front.totals), device=front.totals.device)[:, None]
    closed = (front.totals + front.log_probs[:, :, EOS]).masked_fill(~closes, -math.inf)
    return Step(tokens, parents, live, front.own[sentence, parents, tokens], closed, front.eos)
