"""Groups of runs as tables for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from rich.table import Table

from itda.evaluate.bootstrap import Estimate
from itda.evaluate.report import SIGNIFICANT, TITLES, format_estimate, format_value
from itda.evaluate.seeds import Aggregate, SeedDifference

FEW = 6  # seeds shown one by one; more would not fit a terminal


def aggregate_table(title: str, found: Mapping[str, Aggregate], seeds: Sequence[object]) -> Table:
    """Lay out each metric of a group: mean, standard deviation and t-interval over seeds, then each seed's score."""
    table = Table(title=f"{title}; {len(seeds)} seeds", title_justify="left", caption_justify="left")
    table.add_column("metric")
    for column in ("mean", "std", "95 % t-interval", *(f"seed {seed}" for seed in seeds if len(seeds) <= FEW)):
        table.add_column(column, justify="right")
    for name, one in found.items():
        spread = f"[{format_value(name, one.low)}, {format_value(name, one.high)}]" if one.low is not None else "-"
        scores = [format_value(name, score) for score in one.scores if len(seeds) <= FEW]
        cells = [format_value(name, one.mean), format_value(name, one.std), spread.replace("[", r"\[")]
        table.add_row(TITLES.get(name, name), *cells, *scores)
    if len(seeds) < 2:
        table.caption = "one seed has no interval"
    return table


def group_comparison_table(
    found: Mapping[str, SeedDifference], name_a: str, name_b: str, resamples: int, seed: int
) -> Table:
    """Lay out a comparison of two groups, one metric a row; the last column is for the 5 % level."""
    title = f"a: {name_a}, b: {name_b}; means over seeds, sentences paired"
    table = Table(title=title, title_justify="left", caption_justify="left")
    table.add_column("metric")
    for column in ("a", "b", "a - b", "interval", "p both", "p Welch"):
        table.add_column(column, justify="right")
    table.add_column("better")
    for name, one in found.items():
        means = [format_value(name, value) for value in (one.mean_a, one.mean_b)]
        spread = format_estimate(name, Estimate(one.difference, one.low, one.high)).replace("[", r"\[").split(" ", 1)
        p_values = ["-" if p is None else f"{p:.4f}" for p in (one.p_bootstrap, one.p_welch)]
        table.add_row(TITLES.get(name, name), *means, *spread, *p_values, group_verdict(one))
    table.caption = (
        f"p both: bootstrap over seeds and sentences, {resamples} resamples, seed {seed}\n"
        "p Welch: t-test over seeds; better: where both are below 0.05"
    )
    return table


def group_verdict(found: SeedDifference) -> str:
    """Name the group that is better, if both tests agree that one is."""
    if found.p_bootstrap is None:
        return "not finite"
    if found.p_welch is None:
        return "too few seeds"
    if found.better is None or max(found.p_bootstrap, found.p_welch) >= SIGNIFICANT:
        return "-"
    return found.better
