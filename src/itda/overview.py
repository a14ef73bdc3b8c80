"""Several run folders side by side: how each ended, and in which settings they differ."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from itda.config import Config, parse
from itda.errors import ItdaError
from itda.run import CONFIG, FACTS, RunFolder

SHOWN = ("status", "stopped", "update", "minutes", "parameters", "best", "final")
NO_DIFFERENCE = ("name", "about", "format")


@dataclass(frozen=True)
class RunSummary:
    """One run: what run.json says, its recipe, or why it cannot be read."""

    path: Path
    facts: dict[str, Any]
    config: Config | None
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        """Give the facts that a listing shows."""
        shown = {key: self.facts.get(key) for key in SHOWN}
        return {"run": str(self.path), **shown, "problem": self.problem or None}


def summarize(path: Path) -> RunSummary:
    """Read one run folder; what is wrong with it becomes its `problem`."""
    try:
        run = RunFolder.open(path)
        text = run.read_config() if run.has(CONFIG) else ""
        return RunSummary(path, run.facts, parse(text, str(run.config_path)) if text else None)
    except (ItdaError, OSError) as error:
        return RunSummary(path, {}, None, str(error))


def list_runs(folder: Path) -> list[RunSummary]:
    """Summarize the run at `folder`, or each run directly below it, by name."""
    if (folder / FACTS).is_file():
        return [summarize(folder)]
    return [summarize(file.parent) for file in sorted(folder.glob(f"*/{FACTS}"))]


def differences(runs: Sequence[RunSummary]) -> dict[str, list[Any]]:
    """Map each setting in which the runs differ to its value in each run (None where a recipe is missing)."""
    flat = [dict(flatten(run.config)) if run.config else {} for run in runs]
    table = {key: [one.get(key) for one in flat] for key in dict(flatten(Config())) if key not in NO_DIFFERENCE}
    return {key: values for key, values in table.items() if len({value for value in values if value is not None}) > 1}


def flatten(section: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every setting of a section under its full key."""
    for one in fields(section):
        value = getattr(section, one.name)
        if is_dataclass(value):
            yield from flatten(value, f"{prefix}{one.name}.")
        else:
            yield prefix + one.name, value
