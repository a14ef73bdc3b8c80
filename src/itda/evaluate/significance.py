"""Paired tests of two systems on the same sentences: is the difference more than the luck of the draw?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, cast

import numpy as np
from jaxtyping import Bool, Float

from itda.errors import UserError
from itda.evaluate.bootstrap import (
    CHUNK,
    CONFIDENCE,
    RESAMPLES,
    check_resampling,
    finite,
    interval,
    resampled_scores,
)
from itda.evaluate.metrics import Likelihood, Metric, check_counts, likelihood_metrics, text_metrics

TRIALS = 10_000
TOLERANCE = 1e-9  # equal sums added in another order differ by less


class Verdict:
    """What follows from the difference of two systems by one metric, whatever the dataclass beside it holds."""

    difference: float | None
    higher_is_better: bool

    @property
    def better(self) -> str | None:
        """Name the side with the better value, a or b; None for a tie."""
        if not self.difference:
            return None
        return "a" if (self.difference > 0) == self.higher_is_better else "b"

    def to_json(self) -> dict[str, Any]:
        """Give the values under their names."""
        return {**asdict(cast(Any, self)), "better": self.better}


@dataclass(frozen=True)
class Difference(Verdict):
    """Two systems by one metric; `difference` is a - b with its bootstrap interval.

    `wins_a` and `wins_b` are the shares of the resampled test sets where one is better (the rest are ties): Koehn's
    (2004) "95 % significantly better" is wins_a >= 0.95. Both p-values are two-sided. All are None where a score is
    not finite.
    """

    metric: str
    signature: str
    higher_is_better: bool
    score_a: float | None
    score_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    wins_a: float | None
    wins_b: float | None
    p_bootstrap: float | None
    p_randomization: float | None


@dataclass(frozen=True)
class Comparison:
    """What `compare` found, by metric."""

    sentences: int
    differences: dict[str, Difference]
    resamples: int
    trials: int
    confidence: float
    seed: int

    def __getitem__(self, name: str) -> Difference:
        """Give the difference in a metric by its name."""
        return self.differences[name]

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain values."""
        values = asdict(self)
        return {**values, "differences": {name: found.to_json() for name, found in self.differences.items()}}


def compare(
    hyps_a: Sequence[str],
    hyps_b: Sequence[str],
    refs: Sequence[str],
    *,
    likelihood_a: Likelihood | None = None,
    likelihood_b: Likelihood | None = None,
    tokenize: str | None = None,
    resamples: int = RESAMPLES,
    trials: int = TRIALS,
    confidence: float = CONFIDENCE,
    seed: int = 1,
) -> Comparison:
    """Compare two systems on the same references by paired bootstrap (Koehn 2004) and approximate randomisation.

    With both likelihoods, bits per character and its kin are compared too; token accuracy and perplexity mean
    something only where the two share a vocabulary.
    """
    check_counts(hypotheses_of_a=hyps_a, hypotheses_of_b=hyps_b, references=refs)
    check_resampling(resamples, confidence)
    if trials < 1:
        raise UserError(f"trials is {trials}; it must be 1 or more; {TRIALS} is usual.")
    of_a = text_metrics(hyps_a, refs, tokenize=tokenize)
    of_b = text_metrics(hyps_b, refs, tokenize=tokenize)
    if likelihood_a is not None and likelihood_b is not None:
        check_counts(references=refs, likelihoods_of_a=likelihood_a.nll, likelihoods_of_b=likelihood_b.nll)
        of_a += likelihood_metrics(likelihood_a)
        of_b += likelihood_metrics(likelihood_b)
    resampled = resampled_scores([*of_a, *of_b], resamples, seed)
    shuffled = randomized_differences(of_a, of_b, trials, seed)
    differences = {
        a.name: _difference(a, b, _minus(values_a, values_b), chance, confidence)
        for a, b, values_a, values_b, chance in zip(
            of_a, of_b, resampled[: len(of_a)], resampled[len(of_a) :], shuffled, strict=True
        )
    }
    return Comparison(len(refs), differences, resamples, trials, confidence, seed)


def randomized_differences(
    of_a: Sequence[Metric], of_b: Sequence[Metric], trials: int, seed: int
) -> list[Float[np.ndarray, " trials"]]:
    """Score pairs of systems made by giving each sentence's two outputs to a and b by the toss of a coin."""
    random = np.random.default_rng(seed)
    sentences = len(of_a[0].stats)
    rows = max(1, CHUNK // sentences)
    parts: list[list[Float[np.ndarray, " chunk"]]] = [[] for _ in of_a]
    for start in range(0, trials, rows):
        swapped = random.integers(2, size=(min(rows, trials - start), sentences), dtype=np.int8).astype(bool)
        for part, a, b in zip(parts, of_a, of_b, strict=True):
            part.append(swapped_differences(a, b, swapped))
    return [np.concatenate(part) for part in parts]


def swapped_differences(
    a: Metric, b: Metric, swapped: Bool[np.ndarray, "trials sentences"]
) -> Float[np.ndarray, " trials"]:
    """Score a minus b after the outputs of the marked sentences have changed places."""
    moved = swapped.astype(np.float64) @ (b.stats - a.stats)
    sums_a, sums_b = a.stats.sum(axis=0) + moved, b.stats.sum(axis=0) - moved
    scores_a, scores_b = (np.array([a.formula(row) for row in sums.tolist()]) for sums in (sums_a, sums_b))
    return _minus(scores_a, scores_b)


def bootstrap_p(differences: Float[np.ndarray, " resamples"]) -> float:
    """Give the two-sided p-value of resampled differences: twice the share that are not on the winner's side.

    A tie counts for neither side, so that a system compared with itself has p = 1; one is added to both counts,
    so that no finite number of resamples claims certainty.
    """
    fewer = min(np.sum(differences <= TOLERANCE), np.sum(differences >= -TOLERANCE))
    return min(1.0, 2 * (int(fewer) + 1) / (len(differences) + 1))


def randomization_p(shuffled: Float[np.ndarray, " trials"], observed: float) -> float:
    """Give the share of shuffled pairs that differ by as much as was observed or more, in either direction."""
    as_large = np.sum(np.abs(shuffled) >= abs(observed) - TOLERANCE)
    return (int(as_large) + 1) / (len(shuffled) + 1)


def _difference(
    a: Metric,
    b: Metric,
    resampled: Float[np.ndarray, " resamples"],
    shuffled: Float[np.ndarray, " trials"],
    confidence: float,
) -> Difference:
    score_a, score_b = a.score, b.score
    head = (a.name, a.signature, a.higher_is_better, finite(score_a), finite(score_b))
    if not (math.isfinite(score_a) and math.isfinite(score_b)):
        return Difference(*head, *[None] * 7)
    low, high = interval(resampled, confidence)
    above, below = float(np.mean(resampled > TOLERANCE)), float(np.mean(resampled < -TOLERANCE))
    wins = (above, below) if a.higher_is_better else (below, above)
    observed = score_a - score_b
    p_values = (bootstrap_p(resampled), randomization_p(shuffled, observed))
    return Difference(*head, observed, finite(low), finite(high), *wins, *p_values)


def _minus(left: Float[np.ndarray, " values"], right: Float[np.ndarray, " values"]) -> Float[np.ndarray, " values"]:
    # Two infinite scores are equally bad: no difference, where plain subtraction would say nan.
    with np.errstate(invalid="ignore"):
        return np.where(left == right, 0.0, left - right)
