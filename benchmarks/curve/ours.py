"""itda in the race for quality: `itda train` on a recipe, and the mean of the last checkpoints at each moment."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import itda as package
from curve.system import Checkpoint, System, Training

AVERAGE = 3  # checkpoints whose mean is measured: what the recipes write at the end of a training
MAIN = "from itda.cli.main import main; main()"


def itda(name: str, recipe: str, about: str, *overrides: str) -> System:
    """Describe a recipe with changes as a system."""

    def command(training: Training) -> list[str]:
        settings = ["train.metric=loss", f"train.validate_every={training.every}", "train.keep=100000", *overrides]
        options = ["--minutes", str(training.minutes), "--seed", str(training.seed)]
        return [
            *(sys.executable, "-c", MAIN, "train", recipe, *settings, "--run", str(training.folder / "run")),
            *(*options, "--threads", str(training.threads), "--overwrite"),
        ]

    settings = {"recipe": recipe, "with": overrides}
    source = {"PYTHONPATH": str(Path(package.__file__).parents[1])}  # the very code that measures
    return System(name, about, lambda training: (), command, "run/checkpoints/*", translate, settings, source, True)


def translate(training: Training, checkpoints: Sequence[Checkpoint]) -> list[str]:
    """Translate the test set by the mean of the last checkpoints."""
    from itda.seq2seq import Seq2Seq
    from itda.training.checkpoint import average

    model = Seq2Seq.load(training.folder / "run")
    model.model.load_state_dict(average([checkpoint.path for checkpoint in checkpoints[-AVERAGE:]]))
    return [found.text for found in model.generate([src for src, _ in training.task.test])]
