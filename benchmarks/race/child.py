"""What a measured process does whatever it measures: read its job, keep the time, write the result.

A side runs as `python -m race.sides.NAME JOB.json` in its own environment, so this file needs nothing beyond Python
and numpy. A job names its work (training, decoding, ...) and where the result goes.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

PAD, BOS, EOS = 0, 2, 3  # of the prepared ids
RATE = 0.001  # Adam's, where a job says nothing else
MOST_STEPS = 60  # of a trained model, which stops by itself; no sentence of the corpus is longer
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


def by_length(sources: list[list[int]], places: list[int], size: int) -> Iterator[list[int]]:
    """Cut places of sources into batches of similar length, for sides that do not sort by themselves."""
    order = sorted(places, key=lambda place: len(sources[place]))
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


def most_steps(job: Job) -> int:
    """Give how many tokens an output may have, eos included: with random weights, how many it has."""
    return int(job.get("steps") or MOST_STEPS)


def memory_now() -> int:
    """Read the resident memory of this process, in bytes; 0 where the system does not tell."""
    try:
        status = Path("/proc/self/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmRSS")), 0)


def private_memory() -> int:
    """Read how much memory this process shares with no other, in bytes; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/smaps_rollup").read_text(encoding="utf-8").splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * 1024


def others_share(before: tuple[float, float, float], after: tuple[float, float, float], cores: int) -> float | None:
    """Compute which share of the machine other processes used between two moments."""
    wall, machine, own = (b - a for a, b in zip(before, after, strict=True))
    return max(0.0, (machine - own) / (wall * cores)) if machine and wall else None


def moment() -> tuple[float, float, float]:
    """Read three clocks in seconds: the wall's, all processors' work (0 where unknown), and this process's."""
    times = os.times()
    own = times.user + times.system
    try:
        with open("/proc/stat", encoding="ascii") as file:
            user, nice, system, _, _, irq, softirq, steal = map(int, file.readline().split()[1:9])
    except (OSError, ValueError):
        return time.perf_counter(), 0.0, own
    worked = user + nice + system + irq + softirq + steal
    return time.perf_counter(), worked / os.sysconf("SC_CLK_TCK"), own


def decoded(sources: list[list[int]], job: Job, decode: Callable[[list[int], int], list[list[int]]]) -> Result:
    """Time the decoding of all sources: once with each batch size, then again with the best of them.

    `decode(places, size)` decodes some of the sources, in batches of a size that it cuts itself, and gives ids.
    """
    places = list(range(len(sources)))
    decode(places[: job["batches"][0]], job["batches"][0])  # to warm up
    seconds: dict[int, list[float]] = {size: [] for size in job["batches"]}
    outputs: list[list[int]] = []
    for turn in range(job["passes"]):
        sizes = list(seconds) if turn == 0 else [min(seconds, key=lambda size: min(seconds[size]))]
        for size in sizes:
            start = time.perf_counter()
            outputs = decode(places, size)
            seconds[size].append(time.perf_counter() - start)
    best = min(seconds, key=lambda size: min(seconds[size]))
    return {
        "seconds": [statistics.median(seconds[best])],
        "batch_seconds": {str(size): [round(each, 4) for each in found] for size, found in seconds.items()},
        "best_batch": best,
        "sentences": len(sources),
        "tokens": [sum(map(len, outputs))],
        "outputs": outputs[: job.get("kept", 100)],
    }


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
    started = moment()
    result = works[job["work"]](job)
    others = others_share(started, moment(), os.cpu_count() or 1)
    result |= {"peak_memory": peak_memory() + result.pop("workers_memory", 0), "start_memory": before, "others": others}
    Path(job["result"]).write_text(json.dumps(result), encoding="utf-8")
