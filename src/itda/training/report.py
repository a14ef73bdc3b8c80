"""What a person sees of a training: a live line or plain lines, and the learning curve at the end."""

from __future__ import annotations

import time
from collections import deque
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from itda.run import RunFolder, read_metrics
from itda.training.loop import UpdateReport, ValidationReport

if TYPE_CHECKING:
    from rich.console import Console

CURVE = "learning-curve.png"
NAMES = {
    "loss": "loss",
    "perplexity": "ppl",
    "token_accuracy": "acc",
    "bleu": "BLEU",
    "chrf": "chrF",
    "exact_match": "exact",
}


class Display:
    """Shows progress: a live bar on a terminal, else a line every `report_every` updates; validations stay."""

    def __init__(self, console: Console, report_every: int) -> None:
        """Begin to show; nothing is drawn before the first report."""
        from rich.progress import BarColumn, Progress, TextColumn

        self.console, self.report_every = console, report_every
        self.recent: deque[UpdateReport] = deque(maxlen=50)
        self.began = time.monotonic()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[facts]}", markup=False),
        )
        self.bar = Progress(*columns, console=console, transient=True) if console.is_terminal else None
        self.task = self.bar.add_task("training", total=1.0, facts="") if self.bar else None

    def __enter__(self) -> Display:
        """Start the live display."""
        if self.bar:
            self.bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the live display."""
        if self.bar:
            self.bar.stop()

    def __call__(self, report: UpdateReport | ValidationReport) -> None:
        """Show one report."""
        if isinstance(report, ValidationReport):
            self.console.print(validation_line(report), markup=False, soft_wrap=True)
            return
        self.recent.append(report)
        if self.bar and self.task is not None:
            self.bar.update(self.task, completed=report.progress, facts=self.facts(report))
        elif report.step % self.report_every == 0:
            self.console.print(self.facts(report), markup=False, soft_wrap=True)

    def facts(self, report: UpdateReport) -> str:
        """Update, loss, target tokens a second and the time left."""
        seconds = sum(one.seconds for one in self.recent)
        speed = sum(one.num_targets for one in self.recent) / max(seconds, 1e-9)
        loss = sum(one.loss * one.num_targets for one in self.recent) / sum(one.num_targets for one in self.recent)
        left = time_left(time.monotonic() - self.began, report.progress)
        parts = "".join(f"  {name} {value:.3g}" for name, value in report.parts.items())
        return (
            f"update {report.step}  loss {loss:.4g}{parts}  {speed:,.0f} tok/s  {report.minutes:.1f} min, {left} left"
        )


def time_left(seconds: float, progress: float) -> str:
    """Estimate from the share of the budget that is used."""
    if progress <= 0:
        return "?"
    left = seconds * (1 - progress) / progress
    return f"{left / 60:.1f} min" if left >= 60 else f"{left:.0f} s"


def validation_line(report: ValidationReport) -> str:
    """One line on a validation."""
    shown = [f"{NAMES.get(name, name)} {value:.4g}" for name, value in report.metrics.items()]
    return f"update {report.step}  {report.minutes:.1f} min  {'  '.join(shown)}{'  (best)' if report.best else ''}"


def draw_curve(run: RunFolder) -> Path | None:
    """Draw the learning curve of a run into its folder; nothing where nothing was recorded."""
    from itda.explain.curves import learning_curve

    metrics = read_metrics(run.metrics_path)
    if not metrics:
        return None
    vectors = not any("perplexity" in line.get("metrics", {}) for line in metrics if line["kind"] == "validation")
    return learning_curve(metrics, run.path / CURVE, unit="loss at a position" if vectors else "nats a token")
