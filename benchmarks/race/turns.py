"""Sides in turn: each run is a process of its own, the order turns from round to round, a ratio is within a round."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "itda"
DISTURBED = 0.06  # others may use so much of the machine; a run with more is taken again
TRIES = 2
SLOW = 0.6  # a peer that reaches less of the fastest peer's speed in the first round is not run again
BENCHMARKS = Path(__file__).resolve().parents[1]
TIMEOUT = 1800


class SideFailed(Exception):
    """Why a side gave no result."""


@dataclass(frozen=True)
class Side:
    """Who runs, by which interpreter, with which variables."""

    name: str
    python: Path
    variables: Mapping[str, str]
    through: tuple[str, ...] = ()  # a command in front, such as one that keeps other work off the machine

    def run(self, job: dict[str, Any], threads: int, tries: int = TRIES) -> dict[str, Any]:
        """Do a job in a fresh process; once more where other work disturbed it, and the least disturbed counts."""
        found: list[dict[str, Any]] = []
        while len(found) < tries and all((each["others"] or 0.0) > DISTURBED for each in found):
            found.append(self._run(job, threads))
        return min(found, key=lambda each: each["others"] or 0.0)

    def _run(self, job: dict[str, Any], threads: int) -> dict[str, Any]:
        with tempfile.TemporaryDirectory() as folder:
            job_file, result = Path(folder) / "job.json", Path(folder) / "result.json"
            job_file.write_text(json.dumps(job | {"result": str(result)}), encoding="utf-8")
            command = [*self.through, str(self.python), "-m", f"race.sides.{self.name}", str(job_file)]
            environment = clean_environment(threads) | dict(self.variables)
            done = subprocess.run(
                command, env=environment, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
            )
            if done.returncode or not result.exists():
                lines = (done.stderr.strip() or done.stdout.strip() or "no word").splitlines()
                raise SideFailed(f"{self.name} ended with status {done.returncode}: {lines[-1]}")
            found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
            return found


def clean_environment(threads: int) -> dict[str, str]:
    """Give what a child may know of the surroundings, and the number of threads."""
    kept = ("PATH", "HOME", "LANG", "TMPDIR", "ITDA_DATA", "LD_LIBRARY_PATH")
    found = {name: os.environ[name] for name in kept if name in os.environ}
    counts = {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}
    return found | counts | {"PYTHONPATH": str(BENCHMARKS), "PYTHONNOUSERSITE": "1", "TOKENIZERS_PARALLELISM": "false"}


def our_side(name: str = OURS, through: tuple[str, ...] = ()) -> Side:
    """Describe a side that runs in the interpreter of this process: itda itself, and the loops written by hand."""
    source = str(BENCHMARKS.parent / "src")
    path = os.pathsep.join([str(BENCHMARKS), source])
    return Side(name, Path(sys.executable), {"PYTHONPATH": path}, through)


def speed(result: Mapping[str, Any]) -> float:
    """Compute how much a run did in a second: sentences or updates where these are counted, else target tokens.

    Of a training it is the median over its updates, so that one stall of the machine does not decide.
    """
    amount = result.get("sentences") or result.get("updates")
    if amount:
        return float(amount) / sum(result["seconds"])
    laps = zip(result["tokens"], result["seconds"], strict=True)
    return statistics.median(tokens / seconds for tokens, seconds in laps)


def take_turns(
    names: Sequence[str],
    rounds: int,
    run: Callable[[str], dict[str, Any]],
    tell: Callable[[str], None],
    every: bool = False,
) -> tuple[dict[str, list[dict[str, Any] | None]], dict[str, str]]:
    """Run all sides in each round, in an order that turns; give each side's results and why some have none.

    A place in a side's list is a round, None where it was not run. Ours is the first name and runs in every round, and
    so do all where `every` is set.
    """
    results: dict[str, list[dict[str, Any] | None]] = {name: [] for name in names}
    failed: dict[str, str] = {}
    for number in range(rounds):
        slow = too_slow(results) if number and not every else set()
        for name in turned(names, number):
            if name in failed or name in slow:
                results[name].append(None)
                continue
            try:
                found = run(name)
            except (SideFailed, subprocess.TimeoutExpired) as error:
                failed[name] = str(error)
                tell(f"  {error}")
                results[name].append(None)
                continue
            results[name].append(found)
            tell(f"  round {number + 1}: {name} {speed(found):.4g} (others {found.get('others') or 0.0:.0%})")
    return results, failed


def turned(names: Sequence[str], number: int) -> list[str]:
    """Give the order of a round."""
    first = number % len(names)
    return [*names[first:], *names[:first]]


def too_slow(results: Mapping[str, Sequence[dict[str, Any] | None]]) -> set[str]:
    """Name the peers that are far behind the fastest peer in the first round."""
    ours = next(iter(results))
    first = {name: speed(runs[0]) for name, runs in results.items() if name != ours and runs and runs[0]}
    fastest = max(first.values(), default=0.0)
    return {name for name, value in first.items() if value < SLOW * fastest}


def ratios(
    ours: Sequence[dict[str, Any] | None], theirs: Sequence[dict[str, Any] | None]
) -> dict[str, float | int] | None:
    """Compare two sides round by round: the median of our speed over theirs, with the least and the most."""
    found = [speed(a) / speed(b) for a, b in zip(ours, theirs, strict=True) if a and b]
    if not found:
        return None
    return {
        "median": round(statistics.median(found), 3),
        "min": round(min(found), 3),
        "max": round(max(found), 3),
        "rounds": len(found),
    }


def summary(runs: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """Say what a side did: its speeds, the median of them, and the peak of its memory."""
    done = [run for run in runs if run]
    if not done:
        return None
    found = {
        "speed": round(statistics.median(map(speed, done)), 2),
        "speeds": [round(speed(run), 2) for run in done],
        "peak_memory_mib": round(statistics.median(run["peak_memory"] for run in done) / 2**20, 1),
        "memory_at_start_mib": round(statistics.median(run.get("start_memory", 0) for run in done) / 2**20, 1),
        "seconds": [[round(lap, 4) for lap in run["seconds"]] for run in done],
    }
    found["others"] = [round(run.get("others") or 0.0, 3) for run in done]
    kept = ("parameters", "losses", "sentences", "best_batch", "batch_seconds")
    found |= {name: done[0][name] for name in kept if name in done[0]}
    if "tokens" in done[0]:
        found["tokens"] = sum(done[0]["tokens"])
    return found
