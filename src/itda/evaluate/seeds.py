"""Several runs of one recipe measured together: means with t-intervals over seeds, and a test of two such groups."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from itda.errors import UserError
from itda.evaluate.bootstrap import (
    CONFIDENCE,
    RESAMPLES,
    check_resampling,
    finite,
    interval,
    resampled_scores,
)
from itda.evaluate.metrics import Metric, likelihood_metrics, text_metrics
from itda.evaluate.significance import Verdict, bootstrap_p
from itda.evaluate.student import t_quantile, two_sided_p
from itda.evaluate.systems import Outputs


@dataclass(frozen=True)
class Aggregate:
    """A metric over seeds: mean, standard deviation (n - 1), t-interval of the mean; None where it is not defined.

    The interval says where the mean over all seeds lies, on this test set: mean ± t(n - 1) std / sqrt(n).
    """

    scores: tuple[float | None, ...]
    mean: float | None
    std: float | None
    low: float | None
    high: float | None
    signature: str = ""

    def to_json(self) -> dict[str, Any]:
        """Give the values under their names."""
        values = {**asdict(self), "scores": list(self.scores)}
        return values if self.signature else {key: value for key, value in values.items() if key != "signature"}


def aggregate(scores: Sequence[float], confidence: float = CONFIDENCE, signature: str = "") -> Aggregate:
    """Aggregate one metric's score of each seed; one seed has a mean and no interval."""
    kept = tuple(finite(score) for score in scores)
    if not kept or any(score is None for score in kept):
        return Aggregate(kept, None, None, None, None, signature)
    mean = statistics.fmean(scores)
    if len(scores) < 2:
        return Aggregate(kept, mean, None, None, None, signature)
    std = statistics.stdev(scores)
    reach = t_quantile(confidence, len(scores) - 1) * std / math.sqrt(len(scores))
    return Aggregate(kept, mean, std, mean - reach, mean + reach, signature)


def metrics_of(system: Outputs, references: Sequence[str], tokenize: str | None = None) -> list[Metric]:
    """All metrics of one seed's run."""
    return text_metrics(system.texts, references, tokenize=tokenize) + likelihood_metrics(system.likelihood)


def aggregates(systems: Sequence[Sequence[Metric]], confidence: float = CONFIDENCE) -> dict[str, Aggregate]:
    """Aggregate each metric over the runs of a group, by its name."""
    return {
        same[0].name: aggregate([metric.score for metric in same], confidence, same[0].signature)
        for same in zip(*systems, strict=True)
    }


@dataclass(frozen=True)
class SeedDifference(Verdict):
    """Two groups by one metric: means over seeds, a - b with its bootstrap interval, and two two-sided p-values.

    All but the means are None where a score is not finite; `p_welch` also where a group has one seed alone.
    """

    metric: str
    signature: str
    higher_is_better: bool
    mean_a: float | None
    mean_b: float | None
    difference: float | None
    low: float | None
    high: float | None
    p_bootstrap: float | None
    p_welch: float | None


def compare_groups(
    of_a: Sequence[Sequence[Metric]],
    of_b: Sequence[Sequence[Metric]],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 1,
) -> dict[str, SeedDifference]:
    """Compare two groups of runs, each run a list of metrics of the same sentences, by the metric's name.

    Each resample draws sentences (the same for all runs, so that they stay paired) and, within each group, seeds, all
    with replacement, and scores the difference of the means over the drawn seeds. Seeds and sentences are crossed, not
    nested: each run translates each sentence. Drawing both is Owen's pigeonhole bootstrap (2007, "The pigeonhole
    bootstrap", Annals of Applied Statistics 1). With two or three seeds it draws too little of their variance, so
    Welch's (1947) t-test on the seeds' own scores stands beside it, and a verdict needs both.
    """
    check_resampling(resamples, confidence)
    if not of_a or not of_b:
        raise UserError("a comparison needs one run or more in each group.")
    every = [metric for run in (*of_a, *of_b) for metric in run]
    scores = iter(resampled_scores(every, resamples, seed))
    drawn_a, drawn_b = ([[next(scores) for _ in run] for run in group] for group in (of_a, of_b))
    random = np.random.default_rng((seed, 1))
    picks = [random.integers(len(group), size=(resamples, len(group))) for group in (of_a, of_b)]
    found = {}
    for number, metric in enumerate(of_a[0]):
        ours, theirs = ([run[number].score for run in group] for group in (of_a, of_b))
        means = [
            np.take_along_axis(np.column_stack([run[number] for run in group]), pick, axis=1).mean(axis=1)
            for group, pick in zip((drawn_a, drawn_b), picks, strict=True)
        ]
        found[metric.name] = _difference(metric, ours, theirs, means, confidence)
    return found


def _difference(
    metric: Metric,
    ours: Sequence[float],
    theirs: Sequence[float],
    means: Sequence[Float[np.ndarray, " resamples"]],
    confidence: float,
) -> SeedDifference:
    mean_a, mean_b = statistics.fmean(ours), statistics.fmean(theirs)
    head = (metric.name, metric.signature, metric.higher_is_better, finite(mean_a), finite(mean_b))
    if not (math.isfinite(mean_a) and math.isfinite(mean_b)):
        return SeedDifference(*head, *[None] * 5)
    with np.errstate(invalid="ignore"):
        drawn = np.where(means[0] == means[1], 0.0, means[0] - means[1])
    low, high = interval(drawn, confidence)
    return SeedDifference(*head, mean_a - mean_b, finite(low), finite(high), bootstrap_p(drawn), welch_p(ours, theirs))


def welch_p(ours: Sequence[float], theirs: Sequence[float]) -> float | None:
    """Give the two-sided p-value of Welch's t-test on two sets of scores; None where one has fewer than two."""
    if min(len(ours), len(theirs)) < 2:
        return None
    parts = [statistics.variance(scores) / len(scores) for scores in (ours, theirs)]
    difference = statistics.fmean(ours) - statistics.fmean(theirs)
    if not sum(parts):
        return float(difference == 0)
    df = sum(parts) ** 2 / sum(part**2 / (len(scores) - 1) for part, scores in zip(parts, (ours, theirs), strict=True))
    return two_sided_p(difference / math.sqrt(sum(parts)), df)
