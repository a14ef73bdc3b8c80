"""What a measured process does whatever it measures: read its job, keep the time, write the result.

A side runs as `python -m race.sides.NAME JOB.json` in its own environment, so this file needs nothing beyond Python
and numpy. A job names its work (training, decoding, ...) and where the result goes.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PAD, BOS, EOS = 0, 2, 3  # of the prepared ids
Job = dict[str, Any]
Result = dict[str, Any]


@dataclass(frozen=True)
class Pairs:
    """A batch as every side gets it: sources that end with eos, targets with bos and eos around them, padded with 0."""

    src: np.ndarray
    tgt: np.ndarray

    @property
    def src_lengths(self) -> np.ndarray:
        """Real source positions of each sentence, eos included."""
        return (self.src != PAD).sum(1)

    @property
    def num_targets(self) -> int:
        """Target tokens that are predicted: without padding and bos, eos included."""
        return int((self.tgt != PAD).sum()) - len(self.tgt)


def read_batches(path: str) -> list[Pairs]:
    """Read the prepared batches of a training job."""
    with np.load(path) as file:
        return [Pairs(file[f"src{n}"], file[f"tgt{n}"]) for n in range(len(file.files) // 2)]


def read_sources(path: str) -> list[list[int]]:
    """Read the prepared sources of a decoding job: ids with eos, in the order of the file."""
    sources: list[list[int]] = json.loads(Path(path).read_text(encoding="utf-8"))
    return sources


def by_length(sources: list[list[int]], size: int) -> Iterator[list[int]]:
    """Cut the places of sources into batches of similar length, for sides that do not sort by themselves."""
    order = sorted(range(len(sources)), key=lambda place: len(sources[place]))
    for start in range(0, len(order), size):
        yield order[start : start + size]


@dataclass
class Laps:
    """The time of each update: `lap()` when it begins, and once more when the last has ended."""

    marks: list[float] = field(default_factory=list)

    def lap(self) -> None:
        """Mark a moment."""
        self.marks.append(time.perf_counter())

    def seconds(self, warm: int) -> list[float]:
        """Give the seconds of each update, those that warm up dropped."""
        return [after - before for before, after in zip(self.marks, self.marks[1:], strict=False)][warm:]


def peak_memory() -> int:
    """Read the highest resident memory of this process so far, in bytes."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    except (OSError, StopIteration):
        import resource

        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak if sys.platform == "darwin" else peak * 1024


def memory_now() -> int:
    """Read the resident memory of this process, in bytes; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


def trained(laps: Laps, job: Job, batches: list[Pairs], losses: list[float], parameters: int) -> Result:
    """Lay out the result of a training: what was timed, and what shows that it was the same work."""
    warm = int(job["warm"])
    return {
        "seconds": laps.seconds(warm),
        "tokens": [batch.num_targets for batch in batches[warm:]],
        "losses": losses[warm:],
        "parameters": parameters,
    }


def run(works: dict[str, Callable[[Job], Result]], job_file: str) -> None:
    """Do the job of a file by the function for its work, and write what it gives beside the peak of memory."""
    job: Job = json.loads(Path(job_file).read_text(encoding="utf-8"))
    if job["work"] not in works:
        raise SystemExit(f"this side has no {job['work']}")
    before = memory_now()  # the libraries, before any work
    result = works[job["work"]](job)
    result |= {"peak_memory": peak_memory(), "start_memory": before}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
