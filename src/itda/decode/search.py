"""Search over the Decoder and Head contracts: by beam (greedy search is a beam of 1), by groups of beams, by sampling.

The rules of a beam. PAD and BOS are never written, UNK may be. In each step the best 2 x beam continuations of a
sentence are ranked by log-probability; those among the first `beam` that end with eos close their hypothesis, and the
best `beam` of the others live on. A sentence is done when `beam_size` hypotheses have closed, or when no live
one can still beat its `n_best` best. After as many tokens as its own limit allows only eos may follow, at its true
log-probability, so that every hypothesis ends with eos.

A sentence may have several beams (`Settings.groups`): the groups of diverse beam search, or samples, which are beams
of one row. They share the sentence's memory, and their rows stand beside each other in the batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda.batch import BOS, EOS
from itda.decode.diverse import ChooseDiverse, merge_groups
from itda.decode.history import Found, History, Step
from itda.decode.penalties import Coverage
from itda.decode.ranking import Choose, Front, choose_best
from itda.decode.rules import RuleBook
from itda.decode.sampling import ChooseSample
from itda.decode.scores import Scoring
from itda.decode.settings import Settings
from itda.decode.words import AllWords, Words
from itda.errors import ItdaError
from itda.nn.interface import Decoder, Engine, Head, Memory

PATIENCE = 0.25  # steps' worth of rows that are done already; then those still alive move together


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
    settings = Settings(beam_size, n_best, Scoring(strength=length_penalty))
    return Search(decoder, head, memory, max_lengths, settings, weights=weights).run()


@dataclass(frozen=True)
class Moment:
    """One step of a search, for those who watch: the beams that were in the batch, and what was chosen of each."""

    alive: np.ndarray
    step: Step
    charges: Float[Tensor, "beams width"] | None


class Search:
    """One search, from its memory to what was found; `steps` goes on by one position each time."""

    def __init__(
        self,
        decoder: Decoder,
        head: Head,
        memory: Memory,
        max_lengths: Int[Tensor, " sentences"],
        settings: Settings,
        *,
        rules: RuleBook | None = None,
        keys: np.ndarray | None = None,
        banks: Choose | None = None,
        words: Words | None = None,
        weights: bool = False,
        engine: Engine | None = None,
    ) -> None:
        """Check the settings; `keys` are those of sampling, `banks` the way to choose under what must be written.

        `words` are what each sentence may be written with; without them it is the head's whole vocabulary. `engine` is
        one of the decoder's; a search that is given none has one made.
        """
        self.settings = settings.check()
        with torch.inference_mode():
            self.engine = engine or decoder.engine()
        self.memory, self.rules, self.weights = memory, rules, weights
        self.words = AllWords(head) if words is None else words
        max_lengths = max_lengths if rules is None else rules.lengthen(max_lengths)
        self.limits = max_lengths.cpu().numpy()
        assert self.limits.shape == memory.mask.shape[:1], "one limit for each sentence"
        assert (self.limits >= 0).all(), "a limit is 0 or more"
        self.choose = _choose(settings, keys, banks)
        beams, positions = len(self.limits) * settings.groups, int(self.limits.max(initial=0)) + 1
        self.history = History(beams, settings.width, positions, weights, memory.mask.device)

    @torch.inference_mode()
    def run(self) -> list[list[Found]]:
        """Search to the end."""
        for _ in self.steps():
            pass
        return self.found()

    def steps(self) -> Iterator[Moment]:
        """Search, one position after the other; the caller keeps it in inference mode."""
        if not len(self.limits):
            return
        groups, width, scoring = self.settings.groups, self.settings.width, self.settings.scoring
        coverage = Coverage(scoring.coverage) if scoring.coverage else None
        alive = np.arange(len(self.limits) * groups)
        limits = torch.as_tensor(self.limits, device=self.memory.mask.device)
        beams = _Beams.start(limits.repeat_interleave(groups), self._n_best())
        if self.rules is not None:
            self.rules.begin(self.limits, groups)
        walk, words = self.engine.start(self.memory, weights=self.weights or coverage is not None), self.words
        previous, wasted = torch.full_like(limits, BOS), 0.0
        done = np.zeros(len(alive), dtype=bool)
        for position in range(self.history.tokens.shape[0]):
            decoded = walk.step(previous)
            own, weights = words.log_probs(decoded, walk.memory), decoded.weights
            if position == 0 and groups > 1:  # all groups of a sentence begin alike
                own = own.repeat_interleave(groups, dim=0)
                weights = None if weights is None else weights.repeat_interleave(groups, dim=0)
            own = own.unflatten(0, beams.totals.shape)
            eos = own[:, :, EOS].clone()
            log_probs = own if self.rules is None else self.rules.apply(own, position)
            at_limit = beams.limits == position if position in self.limits else None
            step = words.named(self.choose(Front(beams.totals, log_probs, own, eos, at_limit, position, alive), width))
            charges = coverage.charge(weights, walk.memory.mask, own.shape[1]) if coverage else None
            self.history.write(alive, step, weights, charges)
            beams, leave = beams.advance(step, position, scoring, charges)
            before, done = done, _on_host(leave, step, position)
            self.history.leave(alive[done & ~before])
            yield Moment(alive, step, charges)
            going = ~done.reshape(-1, groups).all(axis=1)
            if not going.any():
                break
            if done.any():
                beams = beams.stop(torch.as_tensor(done, device=previous.device))
            if self.rules is not None:
                self.rules.follow(replace(step, totals=beams.totals))
            if coverage:
                coverage.follow(_rows(step.parents, own.shape[1]))
            if walk.width < width * groups:  # after the first step all rows come from the only one
                walk.widen(width * groups)
            elif width > 1:
                walk.reorder(_rows(step.parents, width))
            previous, wasted = step.tokens.flatten(), wasted + 1.0 - going.mean()
            del decoded, own, log_probs  # the next table may lie where this one does, in the cache
            if wasted >= PATIENCE:
                wasted, sentences = 0.0, np.flatnonzero(going)
                places = (sentences[:, None] * groups + np.arange(groups)).ravel()
                kept = torch.as_tensor(places, device=previous.device)
                alive, done, beams = alive[places], done[places], beams.select(kept)
                gone_on = torch.as_tensor(sentences, device=previous.device)
                walk.select(gone_on)
                words = words.select(gone_on)
                previous = step.tokens[kept].flatten()
                if self.rules is not None:
                    self.rules.select(places)
                if coverage:
                    coverage.follow((kept[:, None] * width + torch.arange(width, device=kept.device)).flatten())

    def found(self) -> list[list[Found]]:
        """Read what was found, for each sentence, best first; samples in the order in which they were numbered."""
        if not len(self.limits):
            return []
        groups, mask = self.settings.groups, self.memory.mask
        if groups == 1:
            return self.history.collect(self._n_best(), self.settings.scoring, mask)
        each = self.history.collect(self._n_best(), self.settings.scoring, mask.repeat_interleave(groups, dim=0))
        sentences = [each[start : start + groups] for start in range(0, len(each), groups)]
        if self.settings.sampling is not None:
            return [[sample for (sample,) in one] for one in sentences]
        return [merge_groups(one, self.settings.n_best) for one in sentences]

    def _n_best(self) -> int:
        """How many hypotheses each beam is asked for."""
        return min(self.settings.width, self.settings.n_best)


def _choose(settings: Settings, keys: np.ndarray | None, banks: Choose | None) -> Choose:
    if settings.sampling is not None:
        assert keys is not None, "sampling needs a key for each sample"
        return ChooseSample(settings.sampling, keys)
    inner = choose_best if banks is None or settings.width == 1 else banks
    return inner if settings.diversity is None else ChooseDiverse(settings.diversity, inner)


@dataclass(frozen=True)
class _Beams:
    """What the search knows of the beams that are still in the batch: one a sentence, or one a group."""

    limits: Int[Tensor, " beams"]
    totals: Float[Tensor, "beams width"]  # log-probability of each live hypothesis, best first; -inf: none
    closed: Int[Tensor, " beams"]  # how many hypotheses have closed
    best: Float[Tensor, "beams n_best"]  # scores of the best closed ones, best first; -inf: none

    @staticmethod
    def start(limits: Int[Tensor, " beams"], n_best: int) -> _Beams:
        # Sums are kept in float64, where the device has it: they are few, and near-equal ones shall stay apart.
        kind = torch.float32 if limits.device.type == "mps" else torch.float64
        totals = torch.zeros(len(limits), 1, dtype=kind, device=limits.device)
        return _Beams(limits, totals, torch.zeros_like(limits), totals.new_full((len(limits), n_best), -math.inf))

    def select(self, kept: Int[Tensor, " kept"]) -> _Beams:
        """Keep some beams."""
        return _Beams(self.limits[kept], self.totals[kept], self.closed[kept], self.best[kept])

    def stop(self, done: Bool[Tensor, " beams"]) -> _Beams:
        """Let nothing of a beam that is done live on, though others of its sentence do."""
        return replace(self, totals=self.totals.masked_fill(done[:, None], -math.inf))

    def advance(
        self, step: Step, position: int, scoring: Scoring, charges: Float[Tensor, "beams width"] | None
    ) -> tuple[_Beams, Bool[Tensor, " beams"]]:
        """Go on with the live hypotheses, and say which beams are done; `charges` are added to what closes.

        The bound is exact: a log-probability never rises, a charge is never above 0, and no hypothesis is longer
        than the limit and its eos. It is -inf where none is live.
        """
        closed = self.closed + (step.closed > -math.inf).sum(dim=1)
        closing = scoring.normalize(step.closed, position + 1)
        scores = torch.cat([self.best, closing if charges is None else closing + charges], dim=1)
        scores = scores.topk(self.best.shape[1]).values
        bound = scoring.normalize(step.totals[:, 0], (self.limits + 1).to(step.totals.dtype))
        beam_size = step.totals.shape[1]
        return _Beams(self.limits, step.totals, closed, scores), (closed >= beam_size) | (scores[:, -1] >= bound)


def _rows(parents: Int[Tensor, "beams width"], width: int) -> Int[Tensor, " rows"]:
    """Count the rows that the parents are through the whole batch, where each beam had `width`."""
    return (parents + torch.arange(len(parents), device=parents.device)[:, None] * width).flatten()


def _on_host(leave: Bool[Tensor, " beams"], step: Step, position: int) -> np.ndarray:
    """Fetch which sentences are done: the one moment of a step when the host waits for the device."""
    broken = step.closed.isnan().any(dim=1) | step.totals.isnan().any(dim=1)
    done, failed = torch.stack([leave, broken]).cpu().numpy()
    if failed.any():
        raise ItdaError(
            f"the model's log-probabilities at output position {position + 1} are NaN; they must be numbers: "
            "its weights are damaged or its training diverged; use an earlier checkpoint"
        )
    return done
