"""What a system of the race is: a training by its own command line, checkpoints by their time, and translations."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from race.turns import clean_environment

from curve.task import Task

GRACE = 60  # seconds that a command has to end by itself when its time is up


@dataclass(frozen=True)
class Checkpoint:
    """Weights on disk, the seconds from the start of the training's process until they were written, and the update."""

    path: Path
    seconds: float
    update: int


@dataclass(frozen=True)
class Training:
    """One training of a system: what it learns from, where its files go, and by which seed."""

    task: Task
    folder: Path
    seed: int
    minutes: float
    threads: int
    every: int  # updates between two checkpoints


@dataclass(frozen=True)
class System:
    """A toolkit with one of its models.

    `commands` are run before the clock starts (vocabularies), `command` is the training, `checkpoints` a glob in its
    folder whose last number is the update, and `translate` gives the test set's outputs as text.
    """

    name: str
    about: str
    commands: Callable[[Training], Sequence[Sequence[str]]]
    command: Callable[[Training], Sequence[str]]
    checkpoints: str
    translate: Callable[[Training, Sequence[Checkpoint]], list[str]]
    settings: Mapping[str, Any]
    variables: Mapping[str, str] = field(default_factory=dict)
    ends_itself: bool = False  # when its time is up

    def environment(self, training: Training) -> dict[str, str]:
        """Give what the system's processes know of the surroundings."""
        return clean_environment(training.threads) | dict(self.variables)

    def train(self, training: Training) -> list[Checkpoint]:
        """Train until the time is up, then name the checkpoints in their order."""
        training.folder.mkdir(parents=True, exist_ok=True)
        environment = self.environment(training)
        with (training.folder / "log.txt").open("w", encoding="utf-8") as log:
            for command in self.commands(training):
                subprocess.run(command, env=environment, stdout=log, stderr=log, check=True)
            started = time.time()
            minutes = training.minutes * 2 if self.ends_itself else training.minutes
            run_for(self.command(training), minutes, environment, log.fileno())
        return sorted(self._found(training, started), key=lambda checkpoint: checkpoint.update)

    def _found(self, training: Training, started: float) -> Iterator[Checkpoint]:
        for path in training.folder.glob(self.checkpoints):
            if not path.is_symlink():
                yield Checkpoint(path, path.stat().st_mtime - started, int(re.findall(r"\d+", path.name)[-1]))


def run_for(command: Sequence[str], minutes: float, environment: Mapping[str, str], log: int) -> None:
    """Run a command until it ends or its minutes are over; then ask it to end, and at last end it."""
    process = subprocess.Popen(command, env=dict(environment), stdout=log, stderr=log, start_new_session=True)
    try:
        status = process.wait(timeout=60 * minutes)
    except subprocess.TimeoutExpired:
        _end(process)
        return
    except BaseException:
        _end(process)
        raise
    if status:
        raise subprocess.CalledProcessError(status, command)


def _end(process: subprocess.Popen[bytes]) -> None:
    for sign in (signal.SIGINT, signal.SIGKILL):
        os.killpg(process.pid, sign)
        try:
            process.wait(timeout=GRACE)
            return
        except subprocess.TimeoutExpired:
            continue
