"""Pictures of training and of scores by length, drawn from what a run recorded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from itda.errors import UserError
from itda.explain import fonts, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER",
    "exact_match": "exact match",
    "token_accuracy": "token accuracy",
    "perplexity": "perplexity",
    "loss": "loss",
}
PREFERRED = tuple(NAMES)
LOSS_POINTS = 300  # a line of more is a smear at this size
COLOURS = (picture.ACCENT, picture.SECOND, "#5b8c5a", "#7a5195")
Curve = tuple[Float[ndarray, " _"], Float[ndarray, " _"]]  # where and what


def learning_curve(
    metrics: Sequence[Mapping[str, Any]],
    path: str | Path,
    *,
    metric: str = "",
    title: str = "",
    unit: str = "nats a token",
) -> Path:
    """Draw the lines of a run's metrics.jsonl: a validation metric above, losses below, against minutes and updates.

    `metric` is one of those that were validated; empty: the first of BLEU, chrF, ... loss that there is. `unit` is
    what the losses are in (squared error for vectors).
    """
    path = Path(path)
    picture.suffix_of(path)
    updates = [line for line in metrics if line.get("kind") == "update"]
    validations = [line for line in metrics if line.get("kind") == "validation"]
    if not updates and not validations:
        raise UserError("there is nothing to draw: no update and no validation was recorded; train first.")
    metric = _metric(validations, metric)
    clock = _Clock([*updates, *validations])
    with fonts.drawing(title, unit):
        figure, above, below = _panels(bool(validations))
        if above is not None:
            scores = _curve(validations, metric, clock)
            above.plot(*scores, color=picture.ACCENT, marker="o", markersize=3.5, linewidth=1.4)
            above.set_ylabel(NAMES.get(metric, metric))
            _mark_best(above, validations, metric, clock)
        training = _thin(_curve(updates, "nll", clock))
        alone = "o" if training[0].size == 1 else ""  # a line through one point is not seen
        below.plot(*training, color=picture.ACCENT, marker=alone, markersize=3, linewidth=1.2, label="training")
        losses = _curve(validations, "loss", clock)
        if losses[0].size:
            below.plot(*losses, color=picture.SECOND, marker="o", markersize=3, linewidth=1.2, label="validation")
            below.legend(frameon=False, fontsize=8, labelcolor=picture.INK)
        below.set_ylabel(unit)
        clock.label(below, above or below)
        if title:
            figure.suptitle(fonts.readable(title), fontsize=11, color=picture.INK)
        return picture.save(figure, path)


def by_length_picture(
    runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, *, metric: str = "bleu", title: str = ""
) -> Path:
    """Draw a metric by source length for one or more runs, each with its interval and the counts below.

    `runs` maps a name to the `by_length` of its evaluation, as `itda evaluate --json` prints it:
    `[{"label": "6-10", "unit": "words", "sentences": 80, "bleu": {"score": .., "low": .., "high": ..}}, ...]`.
    """
    path = Path(path)
    picture.suffix_of(path)
    if not runs or not all(runs.values()):
        raise UserError("there is nothing to draw: give at least one run with scores by length.")
    buckets = next(iter(runs.values()))
    labels = [bucket["label"] for bucket in buckets]
    for name, other in runs.items():
        if [bucket["label"] for bucket in other] != labels:
            raise UserError(f"run '{name}' has other length ranges than the first; evaluate both on the same file.")
        if any(metric not in bucket for bucket in other):
            raise UserError(f"run '{name}' has no '{metric}' by length; evaluate it with that metric.")
    with fonts.drawing(title, *runs):
        figure, _, axes = _panels(False)
        for number, (name, scores) in enumerate(runs.items()):
            _scores_by_length(axes, scores, metric, fonts.readable(name), COLOURS[number % len(COLOURS)])
        counts = [f"{bucket['label']}\nn = {bucket['sentences']}" for bucket in buckets]
        axes.set_xticks(range(len(labels)), counts)
        axes.set_xlabel(f"source length in {buckets[0].get('unit', 'tokens')}")
        axes.set_ylabel(NAMES.get(metric, metric))
        axes.set_ylim(bottom=0)
        axes.legend(frameon=False, fontsize=9, loc="lower left", labelcolor=picture.INK)
        if title:
            figure.suptitle(fonts.readable(title), fontsize=11, color=picture.INK)
        return picture.save(figure, path)


def _metric(validations: Sequence[Mapping[str, Any]], metric: str) -> str:
    known = [name for line in validations for name in line["metrics"]]
    ordered = sorted(set(known), key=lambda name: (PREFERRED.index(name) if name in PREFERRED else 99, name))
    if metric and metric not in ordered:
        raise UserError(f"'{metric}' was not validated; there are {', '.join(ordered) or 'no validations'}.")
    return metric or (ordered[0] if ordered else "loss")


def _curve(lines: Sequence[Mapping[str, Any]], name: str, clock: _Clock) -> Curve:
    """Where and what; values that are no finite numbers (a loss that became nan) leave a gap."""
    points = [(clock.of(line), line.get("metrics", line).get(name)) for line in lines]
    found = [(at, float(value)) for at, value in points if value is not None]
    values = np.array([value for _, value in found])
    return np.array([at for at, _ in found]), np.where(np.isfinite(values), values, np.nan)


def _thin(curve: Curve) -> Curve:
    """Average neighbours until no more than `LOSS_POINTS` are left."""
    at, values = curve
    if at.size <= LOSS_POINTS:
        return curve
    parts = np.array_split(np.arange(at.size), LOSS_POINTS)
    return np.array([at[part].mean() for part in parts]), np.array([values[part].mean() for part in parts])


class _Clock:
    """The axis along the bottom: minutes, with updates along the top; updates alone where no time passed."""

    def __init__(self, lines: Sequence[Mapping[str, Any]]) -> None:
        both = sorted({(int(line["step"]), float(line.get("minutes", 0.0))) for line in lines})
        self.steps = np.array([step for step, _ in both], dtype=float)
        # A validation has its update's step but ends later; an axis needs one rising line through all of them.
        self.minutes = np.maximum.accumulate([minutes for _, minutes in both])
        self.timed = bool(self.minutes[-1] > self.minutes[0])

    def of(self, line: Mapping[str, Any]) -> float:
        return float(line["minutes"] if self.timed else line["step"])

    def label(self, bottom: Axes, top: Axes) -> None:
        bottom.set_xlabel("minutes" if self.timed else "updates")
        if self.timed and self.steps[-1] > self.steps[0]:
            other = top.secondary_xaxis("top", functions=(self._to_steps, self._to_minutes))
            other.set_xlabel("updates", fontsize=9, color=picture.INK)
            other.tick_params(labelsize=8, colors=picture.INK, length=3)
            other.spines["top"].set_color(picture.FAINT)

    def _to_steps(self, minutes: Any) -> Any:
        return _extended(np.asarray(minutes, dtype=float), self.minutes, self.steps)

    def _to_minutes(self, steps: Any) -> Any:
        return _extended(np.asarray(steps, dtype=float), self.steps, self.minutes)


def _extended(at: Any, old: Any, new: Any) -> Any:
    """Interpolate, and go on at the mean slope outside, because an axis has margins."""
    slope = (new[-1] - new[0]) / (old[-1] - old[0])
    inside = np.interp(at, old, new)
    return inside + slope * (np.minimum(at - old[0], 0) + np.maximum(at - old[-1], 0))


def _panels(two: bool) -> tuple[Figure, Axes | None, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6.4, 5.2 if two else 3.8), layout="constrained")
    grid = figure.subplots(2 if two else 1, 1, sharex=True, squeeze=False, height_ratios=(3, 2) if two else None)
    for axes in grid.flat:
        axes.grid(axis="y", color=picture.FAINT, linewidth=0.6)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(picture.FAINT)
        axes.tick_params(colors=picture.INK, labelsize=8, length=3)
        axes.xaxis.label.set(color=picture.INK, size=9)
        axes.yaxis.label.set(color=picture.INK, size=9)
    return figure, (grid[0, 0] if two else None), grid[-1, 0]


def _mark_best(axes: Axes, validations: Sequence[Mapping[str, Any]], metric: str, clock: _Clock) -> None:
    """Ring the last validation that was the best so far, and say its value."""
    best = [line for line in validations if line.get("best") and line["metrics"].get(metric) is not None]
    if not best:
        return
    at, value = clock.of(best[-1]), float(best[-1]["metrics"][metric])
    axes.plot([at], [value], marker="o", markersize=9, markerfacecolor="none", color=picture.SECOND, linewidth=0)
    low, high = axes.get_ylim()
    beside = (0, -16) if value > (low + high) / 2 else (0, 9)
    style: dict[str, Any] = {"textcoords": "offset points", "ha": "center", "color": picture.SECOND, "fontsize": 9}
    axes.annotate(f"{value:.4g}", (at, value), beside, **style)


def _scores_by_length(axes: Axes, scores: Sequence[Mapping[str, Any]], metric: str, name: str, colour: str) -> None:
    at = np.arange(len(scores))
    values = np.array([bucket[metric]["score"] for bucket in scores], dtype=float)
    low = np.array([bucket[metric].get("low") for bucket in scores], dtype=float)
    high = np.array([bucket[metric].get("high") for bucket in scores], dtype=float)
    axes.fill_between(at, low, high, color=colour, alpha=0.14, linewidth=0)
    axes.plot(at, values, color=colour, marker="o", markersize=4.5, linewidth=1.5, label=name)
