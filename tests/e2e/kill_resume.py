"""Train in subprocesses that are killed at random moments and resumed, and compare the whole folders at the end.

By hand: python tests/e2e/kill_resume.py recipes/reverse.toml --kills 20 --seed 1 train.updates=200
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itda.run import TIME_FIELDS
from itda.training import checkpoint

IGNORED = TIME_FIELDS | {"checksum", "commit"}
"""Beside what a clock said: the checksum that a state.json has of itself (it holds for those numbers too, and is
checked by reading the checkpoint), and the commit (somebody may commit while a test runs)."""
PICTURES = {".png", ".svg"}  # a learning curve over minutes: it must be there, its pixels are a matter of time
MOMENTS = ("start", "training", "checkpoint", "saving")
"""What a kill aims at: before the first update of a process; anywhere after it; after the process wrote a checkpoint
(there is something new to go on from); while it writes one."""
ITDA = (sys.executable, "-c", "from itda.cli.main import main; main()")
PATIENCE = 900.0  # seconds after which a training counts as stuck


@dataclass(frozen=True)
class Kill:
    """A kill: which kind of moment was aimed at, after how many seconds it fell, and what it left behind."""

    moment: str
    seconds: float
    temporary: tuple[str, ...]
    checkpoints: tuple[int, ...]


class Trainer:
    """Starts `itda train` on one recipe; each run has caches of its own, so that a kill may hit their making too."""

    def __init__(self, recipe: str, overrides: Sequence[str], room: Path, command: Sequence[str] = ITDA) -> None:
        self.recipe, self.overrides, self.room, self.command = recipe, tuple(overrides), room, tuple(command)
        room.mkdir(parents=True, exist_ok=True)

    @property
    def run(self) -> Path:
        return self.room / "run"

    def start(self, *options: str) -> "subprocess.Popen[bytes]":
        """Start a process (in a session of its own, so that its workers die with it)."""
        words = ["train", self.recipe, *self.overrides, "--run", str(self.run), "--threads", "1", "--device", "cpu"]
        settings = {"OMP_NUM_THREADS": "1", "PYTHONUTF8": "1", "ITDA_CACHE": str(self.room / "cache")}
        with (self.room / "log.txt").open("ab") as log:
            log.write(f"\n--- {' '.join([*words, *options])}\n".encode())
            log.flush()
            return subprocess.Popen(
                [*self.command, *words, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=os.environ | settings,
                start_new_session=True,
            )

    def finish(self, *options: str) -> tuple[float, float]:
        """Train to the end; return the seconds to the first update, and from there to the end."""
        began, before = time.monotonic(), _length(self.run)
        process = self.start(*options)
        try:
            _watch(process, lambda: _length(self.run) not in (before, 0))
            first = time.monotonic()
            code = process.wait(PATIENCE)
        finally:
            kill(process)
        self.expect(code)
        return first - began, time.monotonic() - first

    def expect(self, code: int, expected: int = 0) -> None:
        log = (self.room / "log.txt").read_text(encoding="utf-8", errors="replace")
        assert code == expected, f"itda train ended with {code}, not {expected}:\n{log[-3000:]}"

    def temporary(self) -> tuple[str, ...]:
        """What a save in progress, or a kill in it, has left under a temporary name."""
        return tuple(sorted(p.name for pattern in (".tmp-*", ".old-*") for p in self.run.rglob(pattern)))


def kill(process: "subprocess.Popen[bytes]") -> None:
    """SIGKILL a process and all that it started."""
    if os.name == "nt":
        process.kill()
    elif process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def killed_training(
    trainer: Trainer, moments: Sequence[str], dice: random.Random, undisturbed: tuple[float, float]
) -> list[Kill]:
    """Train with a kill at each of the moments, then to the end; with fewer where training was quicker than they.

    `undisturbed` is what `finish` answered for a training without kills: they are spread over that time.
    """
    done: list[Kill] = []
    start, rest = undisturbed
    for moment in moments:
        span = start if moment == "start" else 2 * rest / (len(moments) + 1)
        options = ["--resume"] if done else []
        if not (fell := _kill_once(trainer, options, moment, dice.random() * span)):
            return done
        done.append(fell)
    trainer.finish("--resume")
    return done


def _kill_once(trainer: Trainer, options: list[str], moment: str, wait: float) -> Kill | None:
    """Start, wait for the moment, kill; None where training came to its end first."""
    began = time.monotonic()
    length, steps = _length(trainer.run), _newest(trainer.run)
    process = trainer.start(*options)
    try:
        if moment != "start":
            _watch(process, lambda: _length(trainer.run) not in (length, 0))
        if moment == "checkpoint":
            _watch(process, lambda: _newest(trainer.run) > steps)
        if moment == "saving":
            _watch(process, lambda: any((trainer.run / "checkpoints").glob(".tmp-*")) or _marked(trainer.run))
            # Half of them at once: on a single core a save may end before the watcher is asked again.
            wait = 0.0 if int(wait * 1e6) % 2 else wait % 0.02
        try:
            trainer.expect(process.wait(wait))
            return None
        except subprocess.TimeoutExpired:
            pass
    finally:
        kill(process)
    left = tuple(checkpoint.steps(trainer.run / "checkpoints"))
    return Kill(moment, time.monotonic() - began, trainer.temporary(), left)


def _watch(process: "subprocess.Popen[bytes]", seen: Any) -> None:
    """Wait until something is seen, or the process has ended."""
    end = time.monotonic() + PATIENCE
    while process.poll() is None and not seen() and time.monotonic() < end:
        time.sleep(0.002)


def _length(run: Path) -> int:
    return (run / "metrics.jsonl").stat().st_size if (run / "metrics.jsonl").exists() else 0


def _newest(run: Path) -> int:
    return max(checkpoint.steps(run / "checkpoints"), default=0)


def _marked(run: Path) -> bool:
    return (run / ".tmp-run.json").exists() or (run / ".tmp-weights.safetensors").exists()


def compare(one: Path, other: Path) -> list[str]:
    """List the differences of two run folders, IGNORED fields and the pixels of PICTURES aside."""
    left, right = dict(_contents(one)), dict(_contents(other))
    found = [f"only in {one}: {name}" for name in sorted(left.keys() - right.keys())]
    found += [f"only in {other}: {name}" for name in sorted(right.keys() - left.keys())]
    for name in sorted(left.keys() & right.keys()):
        if left[name] != right[name]:
            found.append(f"{name}: {_difference(left[name], right[name])}")
    return found


def _contents(folder: Path) -> Iterator[tuple[str, Any]]:
    """Yield all that a folder holds, empty folders too, in a form that may be compared."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_dir():
            yield name + "/", None
        elif path.suffix == ".json":
            yield name, timeless(json.loads(path.read_bytes()))
        elif path.suffix == ".jsonl":
            yield name, [timeless(json.loads(line)) for line in path.read_bytes().splitlines()]
        else:
            yield name, None if path.suffix in PICTURES else path.read_bytes()


def timeless(value: Any) -> Any:
    """The same JSON without the fields that two equal trainings may differ in."""
    if isinstance(value, dict):
        return {key: timeless(item) for key, item in value.items() if key not in IGNORED}
    return [timeless(item) for item in value] if isinstance(value, list) else value


def _difference(left: Any, right: Any) -> str:
    """Say in one line where two values part."""
    if isinstance(left, dict) and isinstance(right, dict):
        keys = sorted(key for key in left.keys() | right.keys() if left.get(key, ...) != right.get(key, ...))
        return f"{keys[0]}: {_difference(left.get(keys[0]), right.get(keys[0]))}"
    if isinstance(left, list) and isinstance(right, list) and len(left) == len(right):
        number = next(n for n, (a, b) in enumerate(zip(left, right, strict=True)) if a != b)
        return f"{number}: {_difference(left[number], right[number])}"
    if isinstance(left, (bytes, list)) and isinstance(right, (bytes, list)):
        same = next(
            (n for n, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
        )
        return f"{len(left)} and {len(right)} long, the same up to {same}"
    return f"{left!r} and {right!r}"


def check(trainer: Trainer, reference: Path) -> None:
    """Hold a run that was killed against one that was not, and read each of its checkpoints."""
    differences = compare(reference, trainer.run)
    assert not differences, "\n".join(["a killed and resumed run ended differently:", *differences])
    assert not trainer.temporary()
    for step in (steps := checkpoint.steps(trainer.run / "checkpoints")):
        checkpoint.read(trainer.run / "checkpoints" / f"{step:08d}")
    assert steps, "a training leaves a checkpoint to go on from"


def kill_and_compare(
    recipe: str, overrides: Sequence[str], room: Path, moments: Sequence[str], seed: int, command: Sequence[str] = ITDA
) -> list[Kill]:
    """Train undisturbed once, then with a kill at each of the moments, compare, and return the kills.

    A training that was quicker than its kills is compared too, and followed by another with those that are left.
    """
    reference = Trainer(recipe, overrides, room / "undisturbed", command)
    undisturbed = reference.finish()
    dice, done = random.Random(seed), list[Kill]()
    for number in range(len(moments) + 1):
        if len(done) == len(moments):
            return done
        trainer = Trainer(recipe, overrides, room / f"killed-{number}", command)
        done += killed_training(trainer, moments[len(done) :], dice, undisturbed)
        check(trainer, reference.run)
    raise AssertionError(f"only {len(done)} of {len(moments)} kills fell before training ended; make it longer")


def random_moments(kills: int, seed: int) -> list[str]:
    """Draw moments, each kind about as often as the others."""
    moments = [MOMENTS[number % len(MOMENTS)] for number in range(kills)]
    random.Random(seed).shuffle(moments)
    return moments


def summary(done: Sequence[Kill]) -> str:
    """Say how many kills there were, at which moments, and how many hit a save."""
    moments = ", ".join(f"{number} at {moment}" for moment, number in sorted(Counter(k.moment for k in done).items()))
    return f"{len(done)} kills ({moments}); {sum(bool(k.temporary) for k in done)} of them left temporary files behind"


def asked(words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line; overrides may stand after the options, as in the line above."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("recipe")
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    return parser.parse_intermixed_args(words)


def main() -> None:
    """Run by hand."""
    arguments = asked()
    with tempfile.TemporaryDirectory() as room:
        moments = random_moments(arguments.kills, arguments.seed)
        done = kill_and_compare(arguments.recipe, arguments.overrides, Path(room), moments, arguments.seed)
    for fell in done:
        print(
            f"{fell.moment:9} {fell.seconds:6.1f} s  checkpoints {list(fell.checkpoints)}  {' '.join(fell.temporary)}"
        )
    print(summary(done) + "; the folders are the same")


if __name__ == "__main__":
    main()
