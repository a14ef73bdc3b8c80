"""Confidence intervals by resampling sentences (Efron 1979; for machine translation Koehn 2004)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from itda.errors import UserError
from itda.evaluate.metrics import Metric

RESAMPLES = 1000
CONFIDENCE = 0.95
CHUNK = 4_000_000  # counts held at a time: 32 MB


@dataclass(frozen=True)
class Estimate:
    """A score with its interval; None stands for a value that is not finite."""

    score: float | None
    low: float | None
    high: float | None
    signature: str = ""

    def to_json(self) -> dict[str, float | str | None]:
        """Give the values under their names."""
        values: dict[str, float | str | None] = {"score": self.score, "low": self.low, "high": self.high}
        return {**values, "signature": self.signature} if self.signature else values


def check_resampling(resamples: int, confidence: float) -> None:
    """Refuse settings that give no interval."""
    if not 0.5 <= confidence < 1.0:
        raise UserError(f"confidence is {confidence}; it must be 0.5 or more and below 1; 0.95 is usual.")
    fewest = math.ceil(2 / (1 - confidence) - 1e-9)
    if resamples < fewest:
        raise UserError(
            f"resamples is {resamples}; it must be {fewest} or more at confidence {confidence}; {RESAMPLES} is usual."
        )


def resampled_sums(
    stats: Float[np.ndarray, "sentences columns"], resamples: int, seed: int | Sequence[int]
) -> Float[np.ndarray, "resamples columns"]:
    """Sum the rows of `resamples` corpora, each drawn with replacement from the sentences, in the same size."""
    random = np.random.default_rng(seed)
    sentences = len(stats)
    rows = max(1, CHUNK // sentences)
    parts = []
    for start in range(0, resamples, rows):
        size = min(rows, resamples - start)
        drawn = random.integers(sentences, size=(size, sentences)) + sentences * np.arange(size)[:, None]
        times = np.bincount(drawn.ravel(), minlength=size * sentences).reshape(size, sentences)
        parts.append(times.astype(np.float64) @ stats)
    return np.concatenate(parts)


def resampled_scores(
    metrics: Sequence[Metric], resamples: int, seed: int | Sequence[int]
) -> list[Float[np.ndarray, " resamples"]]:
    """Score the resampled corpora; all metrics see the same draws, so that their scores are paired."""
    widths = [metric.stats.shape[1] for metric in metrics]
    sums = resampled_sums(np.hstack([metric.stats for metric in metrics]), resamples, seed)
    blocks = np.split(sums, np.cumsum(widths)[:-1], axis=1)
    return [
        np.array([metric.formula(row) for row in block.tolist()]) for metric, block in zip(metrics, blocks, strict=True)
    ]


def interval(values: Float[np.ndarray, " resamples"], confidence: float) -> tuple[float, float]:
    """Cut the same whole number of values from both ends of a sample (the percentile interval).

    No two values are ever mixed, so an infinite one makes no nan.
    """
    ordered = np.sort(values)
    cut = int(len(ordered) * (1 - confidence) / 2 + 1e-9)
    return float(ordered[cut]), float(ordered[-1 - cut])


def finite(value: float) -> float | None:
    """Replace what JSON cannot say."""
    return value if math.isfinite(value) else None


def estimate(
    metrics: Sequence[Metric],
    *,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int | Sequence[int] = 1,
) -> dict[str, Estimate]:
    """Score each metric, with a percentile bootstrap interval, by the metric's name."""
    check_resampling(resamples, confidence)
    found = {}
    for metric, values in zip(metrics, resampled_scores(metrics, resamples, seed), strict=True):
        low, high = interval(values, confidence)
        found[metric.name] = Estimate(finite(metric.score), finite(low), finite(high), metric.signature)
    return found
