"""Beam search over the Decoder and Head contracts; greedy search is a beam of 1.

The rules. PAD and BOS are never written, UNK may be. In each step the best 2 x beam continuations of a sentence
are ranked by log-probability; those among the first `beam` that end with eos close their hypothesis, and the
best `beam` of the others live on. A sentence is done when `beam_size` hypotheses have closed, or when no live
one can still beat its `n_best` best. After as many tokens as its own limit allows only eos may follow, at its true
log-probability, so that every hypothesis ends with eos.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda.batch import BOS, EOS
from itda.decode.history import Found, History, Step
from itda.decode.scores import best, normalize, top_continuations
from itda.errors import ItdaError, UserError
from itda.nn.interface import Decoder, Head, Memory, State


@torch.inference_mode()
def beam_search(
    decoder: Decoder,
    head: Head,
    memory: Memory,
    *,
    beam_size: int,
    max_lengths: Int[Tensor, " sentences"],
    n_best: int = 1,
    length_penalty: float = 1.0,
    weights: bool = False,
) -> list[list[Found]]:
    """Find the `n_best` best hypotheses of each sentence, in the order of the sentences, best first.

    `max_lengths` counts tokens without eos. A sentence has fewer than `n_best` only where fewer exist. Whatever else
    is in the batch changes nothing. With `weights`, each hypothesis carries its attention if the decoder has one.
    Raises UserError for settings that make no sense, ItdaError where the model's answer is not a number.
    """
    _check(beam_size, n_best, length_penalty)
    limits = max_lengths.cpu().numpy()
    assert limits.shape == memory.mask.shape[:1], "one limit for each sentence"
    assert (limits >= 0).all(), "a limit is 0 or more"
    if not len(limits):
        return []
    history = History(len(limits), beam_size, int(limits.max()) + 1, weights, memory.mask.device)
    alive = np.arange(len(limits))
    beams = _Beams.start(max_lengths.to(memory.mask.device), n_best)
    state, previous = decoder.start(memory), torch.full_like(beams.limits, BOS)
    for position in range(int(limits.max()) + 1):
        decoded, state = decoder.step(previous, state)
        log_probs = head.log_probs(decoded, state.memory)[:, 0].unflatten(0, beams.totals.shape)
        step = _rank(beams.totals, log_probs, beam_size, beams.limits == position if position in limits else None)
        history.write(alive, step, decoded.weights)
        beams, leave = beams.advance(step, position, length_penalty)
        keep = np.flatnonzero(~_on_host(leave, step, position))
        if not len(keep):
            break
        kept = torch.as_tensor(keep, device=previous.device)
        if len(keep) < len(alive):
            alive, beams, state = alive[keep], beams.select(kept), state.select(kept)
        state = _follow(state, step.parents[kept], beam_size)
        previous = step.tokens[kept].flatten()
    return history.collect(n_best, length_penalty, memory.mask)


@dataclass(frozen=True)
class _Beams:
    """What the search knows of the sentences that are still in the batch."""

    limits: Int[Tensor, " sentences"]
    totals: Float[Tensor, "sentences width"]  # log-probability of each live hypothesis, best first; -inf: none
    closed: Int[Tensor, " sentences"]  # how many hypotheses have closed
    best: Float[Tensor, "sentences n_best"]  # scores of the best closed ones, best first; -inf: none

    @staticmethod
    def start(limits: Int[Tensor, " sentences"], n_best: int) -> _Beams:
        # Sums are kept in float64, where the device has it: they are few, and near-equal ones shall stay apart.
        kind = torch.float32 if limits.device.type == "mps" else torch.float64
        totals = torch.zeros(len(limits), 1, dtype=kind, device=limits.device)
        return _Beams(limits, totals, torch.zeros_like(limits), totals.new_full((len(limits), n_best), -math.inf))

    def select(self, kept: Int[Tensor, " kept"]) -> _Beams:
        """Keep some sentences."""
        return _Beams(self.limits[kept], self.totals[kept], self.closed[kept], self.best[kept])

    def advance(self, step: Step, position: int, length_penalty: float) -> tuple[_Beams, Bool[Tensor, " sentences"]]:
        """Go on with the live hypotheses, and say which sentences are done.

        The bound is exact: a log-probability never rises, and no hypothesis is longer than the limit and its eos.
        It is -inf where none is live.
        """
        closed = self.closed + (step.closed > -math.inf).sum(dim=1)
        scores = torch.cat([self.best, normalize(step.closed, position + 1, length_penalty)], dim=1)
        scores = scores.topk(self.best.shape[1]).values
        bound = normalize(step.totals[:, 0], (self.limits + 1).to(step.totals.dtype), length_penalty)
        beam_size = step.totals.shape[1]
        return _Beams(self.limits, step.totals, closed, scores), (closed >= beam_size) | (scores[:, -1] >= bound)


def _rank(
    totals: Float[Tensor, "sentences width"],
    log_probs: Float[Tensor, "sentences width vocab"],
    beam_size: int,
    at_limit: Bool[Tensor, " sentences"] | None,
) -> Step:
    """Decide which hypotheses close and which `beam_size` live on; where `at_limit`, all close."""
    eos_log_probs = log_probs[:, :, EOS]
    sums, parents, tokens = top_continuations(totals, log_probs, 2 * beam_size)
    is_eos = tokens == EOS
    # One place beyond the rows takes what does not close.
    closing = torch.where(is_eos[:, :beam_size], parents[:, :beam_size], totals.shape[1])
    closes = torch.zeros(len(totals), totals.shape[1] + 1, dtype=torch.bool, device=totals.device)
    closes = closes.scatter_(1, closing, True)[:, :-1]
    going_on = sums.masked_fill(is_eos, -math.inf)
    if at_limit is not None:
        closes = closes | at_limit[:, None]
        going_on = going_on.masked_fill(at_limit[:, None], -math.inf)
    live, order = best(going_on, beam_size)
    parents, tokens = parents.gather(1, order), tokens.gather(1, order)
    sentence = torch.arange(len(totals), device=totals.device)[:, None]
    closed = (totals + eos_log_probs).masked_fill(~closes, -math.inf)
    return Step(tokens, parents, live, log_probs[sentence, parents, tokens], closed, eos_log_probs)


def _follow(state: State, parents: Int[Tensor, "sentences beam"], beam_size: int) -> State:
    """Let each row of the state go on from its parent; after the first step all rows come from the only one."""
    if state.width < beam_size:
        return state.widen(beam_size)
    offset = torch.arange(len(parents), device=parents.device)[:, None] * beam_size
    return state.reorder((parents + offset).flatten())


def _on_host(leave: Bool[Tensor, " sentences"], step: Step, position: int) -> np.ndarray:
    """Fetch which sentences are done: the one moment of a step when the host waits for the device."""
    broken = step.closed.isnan().any(dim=1) | step.totals.isnan().any(dim=1)
    done, failed = torch.stack([leave, broken]).cpu().numpy()
    if failed.any():
        raise ItdaError(
            f"the model's log-probabilities at output position {position + 1} are NaN; they must be numbers: "
            "its weights are damaged or its training diverged; use an earlier checkpoint"
        )
    return done


def _check(beam_size: int, n_best: int, length_penalty: float) -> None:
    """Refuse settings that make no sense."""
    if beam_size < 1:
        raise UserError(f"beam_size is {beam_size}; it must be 1 or more (1 means greedy search)")
    if not 1 <= n_best <= beam_size:
        raise UserError(f"n_best is {n_best}; it must be 1 to beam_size, {beam_size}; widen the beam for more")
    if not 0 <= length_penalty < math.inf:
        raise UserError(f"length_penalty is {length_penalty}; it must be 0 or more (1: log-probability per token)")
