"""Diverse beam search: groups of beams, each of which is charged for what the groups before it have just written.

Vijayakumar et al. 2016 (arXiv 1610.02424), with the Hamming distance: at each step, a token costs `strength` for
each hypothesis of an earlier group that writes it at the same step.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace

import torch

from itda.batch import EOS
from itda.decode.history import Found, Step
from itda.decode.ranking import Choose, Front
from itda.decode.scores import best
from itda.errors import UserError


@dataclass(frozen=True)
class Diversity:
    """How many groups share the beam, and what it costs, in nats, to repeat a token of another group."""

    groups: int = 2
    strength: float = 0.5

    def check(self, beam_size: int) -> None:
        """Refuse groups that do not share the beam evenly."""
        if self.groups < 1 or beam_size % self.groups:
            raise UserError(
                f"diverse_groups is {self.groups} and beam_size is {beam_size}; the beam must be a multiple of the "
                "groups: change one of them"
            )
        if not 0 <= self.strength < math.inf:
            raise UserError(f"diversity is {self.strength}; it must be 0 or more (0: the groups do not differ)")


@dataclass(frozen=True)
class ChooseDiverse:
    """Let the groups of a sentence choose one after the other, each in its own `inner` way.

    The charge decides what is chosen, and nothing else: the sums that go on are those without it, so that
    hypotheses of different groups can be compared when they are finished.
    """

    diversity: Diversity
    inner: Choose

    def __call__(self, front: Front, beam_size: int) -> Step:
        """Choose for all groups of all sentences; group g of a sentence stands in each g-th row."""
        steps, groups = list[Step](), self.diversity.groups
        written = front.log_probs.new_zeros(len(front.totals) // groups, front.log_probs.shape[2])
        for group in range(groups):
            part = _part(front, group, groups)
            charged = replace(part, log_probs=part.log_probs - self.diversity.strength * written[:, None])
            step = _without_charge(self.inner(charged, beam_size), part)
            written.scatter_add_(1, step.tokens, (step.totals > -math.inf).to(written.dtype))
            written[:, EOS] = 0  # that others stop here is no reason to go on
            steps.append(step)
        return Step(*(torch.stack([getattr(s, f.name) for s in steps], dim=1).flatten(0, 1) for f in fields(Step)))


def _part(front: Front, group: int, groups: int) -> Front:
    """Take one group of each sentence."""
    one = slice(group, None, groups)
    at_limit = None if front.at_limit is None else front.at_limit[one]
    totals, log_probs, own, eos = (part[one] for part in (front.totals, front.log_probs, front.own, front.eos))
    return Front(totals, log_probs, own, eos, at_limit, front.position, front.places[one])


def _without_charge(step: Step, front: Front) -> Step:
    """Sum the chosen anew, without what they were charged for, best first."""
    sentence = torch.arange(len(front.totals), device=front.totals.device)[:, None]
    sums = front.totals.gather(1, step.parents) + front.log_probs[sentence, step.parents, step.tokens]
    totals, order = best(sums.masked_fill(step.totals == -math.inf, -math.inf), step.totals.shape[1])
    chosen = {name: getattr(step, name).gather(1, order) for name in ("tokens", "parents", "log_probs")}
    return replace(step, totals=totals, **chosen)


def merge_groups(groups: list[list[Found]], n_best: int) -> list[Found]:
    """Bring the hypotheses of a sentence's groups together: the best of each group first, and none twice."""
    ranks = range(max(len(found) for found in groups))
    merged, seen = list[Found](), set[tuple[int, ...]]()
    for rank in ranks:
        for one in sorted((found[rank] for found in groups if rank < len(found)), key=_order):
            if one.ids not in seen:
                seen.add(one.ids)
                merged.append(one)
    return merged[:n_best]


def _order(found: Found) -> tuple[bool, float]:
    return not found.finished, -found.score
