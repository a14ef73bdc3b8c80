"""Several run folders side by side: how each ended, and in which settings they differ."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from itda.config import Config, parse
from itda.errors import ItdaError
from itda.group import GROUP, Group
from itda.run import CONFIG, FACTS, RunFolder

SHOWN = ("seeds", "status", "stopped", "update", "minutes", "parameters", "best", "final")
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


def summarize_group(path: Path) -> RunSummary:
    """Read a group of runs as one: how many are done, what they took together, and the mean of their best values."""
    try:
        group = Group.open(path)
    except (ItdaError, OSError) as error:
        return RunSummary(path, {}, None, str(error))
    runs = [summarize(one) for one in group.runs if (one / FACTS).is_file()]
    done = sum(run.facts.get("status") == "done" for run in runs)
    facts: dict[str, Any] = {
        "seeds": list(group.seeds),
        "status": "done" if done == len(group.seeds) else f"{done} of {len(group.seeds)} seeds done",
        "update": sum(run.facts.get("update") or 0 for run in runs),
        "minutes": sum(run.facts.get("minutes") or 0.0 for run in runs),
        "best": mean_best([run.facts.get("best") for run in runs]),
    }
    problems = "; ".join(run.problem for run in runs if run.problem)
    return RunSummary(path, facts, next((run.config for run in runs if run.config), None), problems)


def mean_best(found: Sequence[Any]) -> dict[str, Any] | None:
    """Bring the best validations of several runs together: mean and standard deviation; None where one has none."""
    values = [best["value"] for best in found if isinstance(best, dict) and best.get("value") is not None]
    if not values or len(values) < len(found):
        return None
    std = statistics.stdev(values) if len(values) > 1 else None
    kept = {key: found[0].get(key) for key in ("metric", "higher_is_better")}
    return {**kept, "value": statistics.fmean(values), "std": std, "seeds": len(values)}


def list_runs(folder: Path) -> list[RunSummary]:
    """Summarize the run at `folder`, or each run and group of runs directly below it, by name; a group's runs too."""
    if (folder / FACTS).is_file():
        return [summarize(folder)]
    found = sorted(file for name in (FACTS, GROUP) for file in folder.glob(f"*/{name}"))
    return [(summarize_group if file.name == GROUP else summarize)(file.parent) for file in found]


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
