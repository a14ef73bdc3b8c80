"""Sentences grouped by the length of their source: where a fixed-length context vector shows its limit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int

from itda.errors import UserError
from itda.evaluate.bootstrap import Estimate
from itda.evaluate.writing import length_unit, text_length

EDGES = {"words": (5, 10, 15, 20, 30), "characters": (10, 20, 30, 40, 60)}


@dataclass(frozen=True, eq=False)
class Bucket:
    """The sentences whose source has from `low` to `high` words or characters (None: no limit)."""

    low: int
    high: int | None
    rows: Int[np.ndarray, " kept"]

    @property
    def label(self) -> str:
        """Name the range for people."""
        if self.high is None:
            return f"{self.low}+"
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


@dataclass(frozen=True)
class BucketScores:
    """The scores of one bucket, each with its interval."""

    low: int
    high: int | None
    label: str
    unit: str
    sentences: int
    estimates: dict[str, Estimate]

    def to_json(self) -> dict[str, object]:
        """Give bounds, count and scores as plain values."""
        scores = {name: {"score": e.score, "low": e.low, "high": e.high} for name, e in self.estimates.items()}
        bounds = {"from": self.low, "to": self.high, "label": self.label, "unit": self.unit}
        return {**bounds, "sentences": self.sentences, **scores}


def buckets_by_length(sources: Sequence[str], edges: Sequence[int] | int | None = None) -> tuple[str, list[Bucket]]:
    """Group sentences by source length; the answer is the unit of length and the buckets that are not empty.

    `edges` holds the last length of each bucket but the open last one; None takes the usual ones (5, 10, 15, 20,
    30 words), a number that many quantiles of these lengths. An empty source has the bucket 0 to itself.
    """
    unit = length_unit(sources)
    lengths = np.array([text_length(source, unit) for source in sources])
    lasts = _lasts(lengths, EDGES[unit] if edges is None else edges)
    lows = [0, 1, *(last + 1 for last in lasts)]
    highs = [0, *lasts, None]
    found = []
    for low, high in zip(lows, highs, strict=True):
        inside = lengths >= low if high is None else (lengths >= low) & (lengths <= high)
        if inside.any():
            found.append(Bucket(low, high, np.flatnonzero(inside)))
    return unit, found


def _lasts(lengths: Int[np.ndarray, " sentences"], edges: Sequence[int] | int) -> list[int]:
    if isinstance(edges, int):
        if edges < 1:
            raise UserError(f"the number of length buckets is {edges}; it must be 1 or more; 5 is usual.")
        shares = np.arange(1, edges) / edges
        cuts = np.quantile(lengths, shares, method="inverted_cdf") if edges > 1 else np.array([])
        # Many sentences of one length can hold several quantiles; a cut at the longest would leave nothing above.
        return sorted({int(cut) for cut in cuts if 1 <= cut < lengths.max()})
    lasts = list(edges)
    if any(low >= high for low, high in zip([0, *lasts], lasts, strict=False)):
        raise UserError(f"the length edges are {lasts}; they must be 1 or more and rise; give for example 5 10 20.")
    return lasts
