"""Evaluations and comparisons as tables for people; in plain ASCII, so that any console can show them."""

from __future__ import annotations

from rich.table import Table

from itda.evaluate.bootstrap import Estimate
from itda.evaluate.evaluation import Evaluation
from itda.evaluate.significance import Comparison, Difference

TITLES = {
    "bleu": "BLEU",
    "chrf": "chrF",
    "ter": "TER (lower is better)",
    "exact_match": "exact match (%)",
    "token_accuracy": "token accuracy (%)",
    "perplexity": "perplexity",
    "bits_per_character": "bits per character",
}
_SHARES = ("exact_match", "token_accuracy")
_BY_LENGTH = ("bleu", "chrf", "exact_match")
SIGNIFICANT = 0.05


def format_value(name: str, value: float | None) -> str:
    """Write a score as people read it: shares as percentages, bits with a third decimal."""
    if value is None:
        return "-"
    decimals = 3 if name == "bits_per_character" else 2 if name == "perplexity" else 1
    return f"{value * 100 if name in _SHARES else value:.{decimals}f}"


def format_estimate(name: str, estimate: Estimate) -> str:
    """Write a score with its interval."""
    score, low, high = (format_value(name, value) for value in (estimate.score, estimate.low, estimate.high))
    return f"{score} [{low}, {high}]"


def evaluation_tables(evaluation: Evaluation) -> list[Table]:
    """Lay out an evaluation: all metrics, then the same by source length; print each with a rich console."""
    summary = Table(title=f"{evaluation.sentences} sentences", title_justify="left", caption_justify="left")
    interval = f"{evaluation.confidence:.0%} interval"
    summary.add_column("metric")
    summary.add_column("score", justify="right")
    summary.add_column(interval)
    summary.add_column("signature", overflow="fold")
    for name, estimate in evaluation.estimates.items():
        score, rest = format_estimate(name, estimate).split(" ", 1)
        style = "bold" if name == evaluation.main else None
        summary.add_row(TITLES[name], score, rest.replace("[", r"\["), estimate.signature, style=style)
    if evaluation.notes:
        summary.caption = "\n".join(evaluation.notes)
    return [summary, length_table(evaluation)] if evaluation.by_length else [summary]


def length_table(evaluation: Evaluation) -> Table:
    """Lay out the scores by source length; only those that fit a terminal, `to_json` has the rest."""
    names = [name for name in _BY_LENGTH if name in evaluation.estimates]
    table = Table(title=f"by source length ({evaluation.by_length[0].unit})", title_justify="left")
    for column in ("length", "sentences", *(TITLES[name] for name in names)):
        table.add_column(column, justify="right")
    for bucket in evaluation.by_length:
        cells = [format_estimate(name, bucket.estimates[name]).replace("[", r"\[") for name in names]
        table.add_row(bucket.label, str(bucket.sentences), *cells)
    return table


def comparison_table(comparison: Comparison, name_a: str = "a", name_b: str = "b") -> Table:
    """Lay out a comparison, one metric a row, with a verdict at the 5 % level."""
    table = Table(title=f"{comparison.sentences} sentences, paired", title_justify="left", caption_justify="left")
    table.add_column("metric")
    for column in (name_a, name_b, "difference", "p (bootstrap)", "p (randomisation)"):
        table.add_column(column, justify="right")
    table.add_column("verdict")
    for name, found in comparison.differences.items():
        cells = [format_value(name, value) for value in (found.score_a, found.score_b)]
        estimate = Estimate(found.difference, found.low, found.high)
        spread = format_estimate(name, estimate).replace("[", r"\[")
        p_values = ["-" if p is None else f"{p:.4f}" for p in (found.p_bootstrap, found.p_randomization)]
        table.add_row(TITLES[name], *cells, spread, *p_values, verdict(found, name_a, name_b))
    table.caption = f"{comparison.resamples} resamples, {comparison.trials} shuffles, seed {comparison.seed}"
    return table


def verdict(found: Difference, name_a: str, name_b: str) -> str:
    """Say who is better, if both tests agree that somebody is."""
    if found.p_bootstrap is None or found.p_randomization is None:
        return "not comparable"
    if found.better is None or max(found.p_bootstrap, found.p_randomization) >= SIGNIFICANT:
        return "no significant difference"
    return f"{name_a if found.better == 'a' else name_b} is better"
