"""`itda` as a real process, and settings of a training that takes a second."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

PROGRAM = (sys.executable, "-c", "from itda.cli.main import main; main()")
TINY = (
    "data.pairs=200",
    "model.embedding_dim=16",
    "model.encoder.dim=16",
    "model.decoder.dim=16",
    "model.attention.dim=16",
    "train.batch=16",
    "train.metric=loss",
    "train.validate_every=10",
)


@dataclass(frozen=True)
class Answer:
    """What a call of `itda` ended with."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The one JSON object on standard output."""
        assert self.out.count("\n") == 1, self.out
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """JSON Lines on standard output."""
        return [json.loads(line) for line in self.out.splitlines()]


def environment(**settings: str) -> dict[str, str]:
    """An environment without what would change encodings, and with one thread."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "LC_", "LANG"))}
    return {**kept, "OMP_NUM_THREADS": "1", "COLUMNS": "100", **settings}


def process(*words: object, stdin: bytes = b"", timeout: float = 300, **settings: str) -> Answer:
    """Run `itda` as a real process."""
    command = [*PROGRAM, *map(str, words)]
    done = subprocess.run(command, input=stdin, capture_output=True, env=environment(**settings), timeout=timeout)
    return Answer(done.returncode, done.stdout.decode("utf-8"), done.stderr.decode("utf-8", "replace"))
