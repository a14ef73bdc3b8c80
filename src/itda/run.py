"""A run folder: config, tokenizer, weights and metrics of one training, complete in itself.

    config.toml  tokenizer/  weights.safetensors  metrics.jsonl  checkpoints/
    run.json     format, versions, commit, data, status, best metric, and the checksums of the parts

A part is finished once run.json has its checksum; while it is being written anew the checksum is absent.
"""

from __future__ import annotations

import contextlib
import json
import math
import subprocess
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from itda import durable, lock, weights
from itda.data.lexicon import Lexicon
from itda.decode import shortlist
from itda.errors import DamagedFileError, UserError

FORMAT = 1
MIGRATIONS: dict[int, durable.Migration] = {}
"""For each older format, what turns a run.json of that format into one of the next."""

CONFIG, TOKENIZER, WEIGHTS, SHORTLIST, METRICS, FACTS, CHECKPOINTS = (
    "config.toml",
    "tokenizer",
    "weights.safetensors",
    "shortlist.safetensors",
    "metrics.jsonl",
    "run.json",
    "checkpoints",
)
REMOVED_BY_OVERWRITE = (
    CHECKPOINTS,
    WEIGHTS,
    SHORTLIST,
    METRICS,
    TOKENIZER,
    CONFIG,
    "tensorboard",
    "learning-curve.png",
)

TIME_FIELDS = frozenset(
    {"date", "seconds", "minutes", "train_seconds", "eta", "tokens_per_second", "updates_per_second", "metrics_bytes"}
)
"""Fields of metrics.jsonl, run.json and state.json that two equal trainings may differ in: what a clock said, and the
length of metrics.jsonl, whose lines carry such numbers."""


class RunFolder:
    """A folder of one run: `open` to read it; `create` or `resume` to write it, which locks it until `close`.

    `create` is `claim` and `begin`: whoever has much to prepare that may fail does it between the two.
    """

    def __init__(self, path: Path, facts: dict[str, Any], held: lock.Lock | None) -> None:
        """Take what `open`, `claim` and `resume` found out."""
        self.path, self.facts, self._lock = path, facts, held
        self._older: dict[str, Any] = {}  # the facts of the run that `begin` replaces
        self.config_path, self.tokenizer_path, self.weights_path = path / CONFIG, path / TOKENIZER, path / WEIGHTS
        self.metrics_path, self.checkpoints = path / METRICS, path / CHECKPOINTS

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """Open a run for reading; raise UserError where `path` holds none."""
        return cls(path, _read_facts(path), None)

    @classmethod
    def create(cls, path: Path, overwrite: bool = False) -> RunFolder:
        """Begin a run in a new or empty folder, or in place of another run where `overwrite` says so."""
        run = cls.claim(path, overwrite)
        run.begin()
        return run

    @classmethod
    def claim(cls, path: Path, overwrite: bool = False) -> RunFolder:
        """Make sure that a run may `begin` here, and lock the one that it replaces; nothing of that is changed yet.

        A run that a failure ended before its first update holds nothing to lose, and is replaced unasked.
        """
        if path.exists() and not path.is_dir():
            raise UserError(f"{path} is a file; name a folder with --run")
        old = _read_facts(path) if (path / FACTS).exists() else None
        if old is None and not _is_blank(path):
            raise UserError(
                f"{path} holds other files and no run; it is never overwritten: name another folder with --run"
            )
        if old is not None and not overwrite and not _is_unbegun(path, old):
            raise UserError(
                f"{path} already holds a run (status {old.get('status')}, update {old.get('update', 0)}); "
                "go on with --resume, begin anew with --overwrite, or name another folder with --run"
            )
        run = cls(path, {}, lock.Lock(path) if old is not None else None)
        run._older = old or {}
        return run

    def begin(self) -> None:
        """Make a claimed folder a new run, in place of the older one; the folder is made where it is missing."""
        if self._lock is None:
            durable.make_folder(self.path)
            self._lock = lock.Lock(self.path)
            if (self.path / FACTS).exists():
                raise UserError(
                    f"another process has begun a run in {self.path} meanwhile; name another folder with --run"
                )
        self.facts = self._older
        self._begin()

    @property
    def begun(self) -> bool:
        """Whether this run is on the disk, and not merely claimed."""
        return bool(self.facts)

    @classmethod
    def resume(cls, path: Path) -> RunFolder:
        """Open a run to go on with it, whatever a kill left; where there is nothing yet, begin (status "new")."""
        if not (path / FACTS).exists():
            return cls.create(path)
        run = cls(path, _read_facts(path), lock.Lock(path))
        run.facts = _read_facts(path)  # another process may have written between the look and the lock
        if run.facts.get("status") == "clearing":
            run._begin()
        for folder in (path, run.tokenizer_path):
            if folder.is_dir():
                with durable.reporting(folder):
                    durable.recover(folder)
        return run

    def __enter__(self) -> RunFolder:
        """Return the folder itself; leaving the block closes it."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Release the lock."""
        self.close()

    def close(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            self._lock.release()

    def update(self, **facts: Any) -> None:
        """Change facts in run.json, whole or not at all."""
        locked = self._lock is not None and self._lock.held
        assert locked, "a run that was opened for reading is not written"
        self.facts = self.facts | facts
        durable.write_json(self.path / FACTS, self.facts)

    @contextlib.contextmanager
    def writing(self, *parts: str) -> Iterator[None]:
        """Write parts (config.toml, tokenizer, weights.safetensors) in this block; checksums follow at its end."""
        rest = {name: value for name, value in self.checksums.items() if _part(name) not in parts}
        if rest != self.checksums:
            self.update(checksums=rest)
        yield
        for part in parts:
            rest |= {name: durable.checksum(durable.read(self.path / name)) for name in self._files(part)}
        self.update(checksums=rest)

    @property
    def checksums(self) -> dict[str, str]:
        """The checksum of each finished file, by its path in the run folder."""
        return dict(self.facts.get("checksums", {}))

    def has(self, part: str) -> bool:
        """Say whether a part is there and finished."""
        return any(_part(name) == part for name in self.checksums)

    def read_config(self) -> str:
        """Read config.toml as it was written; raise DamagedFileError where it was altered since."""
        if not self.has(CONFIG):
            raise UserError(
                f"{self.path} has no finished {CONFIG}: training has not begun (status {self.facts.get('status')}); "
                "train it with --overwrite, or copy the whole run folder"
            )
        self.verify(CONFIG)
        return durable.read(self.config_path).decode("utf-8")

    def write_config(self, text: str) -> None:
        """Write config.toml."""
        with self.writing(CONFIG):
            durable.write_whole(self.config_path, text.encode("utf-8"))

    def finish(self, tensors: Mapping[str, Tensor], status: str = "done", **facts: Any) -> None:
        """Write the final weights and how training ended (update, best, minutes ...)."""
        with self.writing(WEIGHTS):
            durable.write_whole(self.weights_path, weights.to_bytes(tensors))
        self.update(status=status, **facts)

    def verify(self, *parts: str) -> None:
        """Compare parts (all where none is named) with their checksums; raise DamagedFileError that names the file."""
        for name, stated in self.checksums.items():
            if parts and _part(name) not in parts:
                continue
            if durable.checksum(durable.read(self.path / name)) != stated:
                raise DamagedFileError(
                    f"{self.path / name} was altered or damaged since training wrote it; "
                    "put the original back, or train anew"
                )

    def load_weights(self, model: nn.Module) -> None:
        """Give a model the final weights."""
        if not self.weights_path.exists():
            raise UserError(
                f"{self.weights_path} is missing: training has not ended (status {self.facts.get('status')}); "
                "go on with --resume, or copy the whole run folder"
            )
        weights.load_into(model, weights.read(self.weights_path, self.checksums.get(WEIGHTS)), self.weights_path)

    def write_shortlist(self, lexicon: Lexicon, **facts: Any) -> None:
        """Write the vocabulary shortlist, and say how it was made."""
        with self.writing(SHORTLIST):
            durable.write_whole(self.path / SHORTLIST, shortlist.to_bytes(lexicon))
        self.update(shortlist=facts)

    def read_shortlist(self, src_vocab: int, tgt_vocab: int) -> Lexicon | None:
        """Read the vocabulary shortlist; None where the run has none."""
        if not self.has(SHORTLIST):
            return None
        return shortlist.read(self.path / SHORTLIST, self.checksums[SHORTLIST], src_vocab, tgt_vocab)

    def _begin(self) -> None:
        """Remove an old run, in an order that a kill cannot turn into a mixture of two, and write a first run.json."""
        with durable.reporting(self.path):
            durable.recover(self.path)
        if self.facts:
            self.update(status="clearing")
        durable.remove_whole(
            path for name in REMOVED_BY_OVERWRITE if (path := self.path / name).exists() or path.is_symlink()
        )
        self.facts = {}
        self.update(format=FORMAT, status="new", update=0, checksums={}, **provenance())

    def _files(self, part: str) -> list[str]:
        path = self.path / part
        if not path.is_dir():
            return [part]
        return [
            p.relative_to(self.path).as_posix()
            for p in sorted(path.rglob("*"))
            if p.is_file() and not p.name.startswith(durable.TEMPORARY)
        ]


LINES = json.JSONEncoder(sort_keys=True, ensure_ascii=False, allow_nan=False)


class MetricsLog:
    """metrics.jsonl: one JSON object a line, with the system as soon as it is appended.

    Numbers that JSON does not know (a loss that became NaN) are written as the strings "nan", "inf", "-inf".
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        """Open at the length that a checkpoint recorded; later lines are cut off, to be written again."""
        self._file = durable.Appender(path, length)

    def append(self, entry: Mapping[str, Any]) -> None:
        """Append one line."""
        try:
            text = LINES.encode(entry)
        except ValueError:
            text = LINES.encode(_finite(entry))
        self._file.append(text.encode("utf-8", "surrogatepass") + b"\n")

    def sync(self) -> int:
        """Wait until the disk has all lines; return the length for the checkpoint (call it before saving one)."""
        return self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Read metrics.jsonl; a last line that a kill cut short is left out."""
    lines = durable.read(path).split(b"\n")[:-1]
    try:
        return [json.loads(line) for line in lines]
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged ({error}); copy it again") from error


def provenance() -> dict[str, Any]:
    """Say which itda, which torch and which commit (None outside a checkout) are at work."""
    return {"itda": version("itda"), "torch": torch.__version__, "commit": _commit()}


def _commit() -> str | None:
    package = Path(__file__).resolve().parent
    command = ["git", "-C", str(package), "ls-files", "--error-unmatch", "run.py"]
    try:
        # An installed package may lie inside somebody else's repository: only a commit that holds this file counts.
        subprocess.run(command, capture_output=True, timeout=10, check=True)
        found = subprocess.run(
            ["git", "-C", str(package), "rev-parse", "HEAD"], capture_output=True, timeout=10, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return found.stdout.decode("ascii").strip()


def _read_facts(path: Path) -> dict[str, Any]:
    file = path / FACTS
    if not file.is_file():
        raise UserError(
            f"{path} is not a run folder: {FACTS} is missing" if path.is_dir() else f"there is no run folder {path}"
        )
    try:
        facts = json.loads(durable.read(file))
    except ValueError as error:
        raise DamagedFileError(
            f"{file} is damaged ({error}); copy the run folder again, or train anew in another"
        ) from error
    if not isinstance(facts, dict) or not isinstance(facts.get("format"), int) or "itda" not in facts:
        raise UserError(f"{path} is not a run folder: {FACTS} is not itda's")
    return durable.migrate(facts, file, FORMAT, MIGRATIONS)


def _is_blank(path: Path) -> bool:
    """Say whether a folder is missing, empty, or as a kill in the first moment of a run leaves it."""
    if not path.is_dir():
        return True
    return all(entry.name in (lock.NAME, durable.TEMPORARY + FACTS) for entry in path.iterdir())


def _is_unbegun(path: Path, facts: dict[str, Any]) -> bool:
    """Say whether training never got to work in a run: no update, no checkpoint, no weights."""
    return facts.get("status") == "new" and not any((path / name).exists() for name in (METRICS, CHECKPOINTS, WEIGHTS))


def _part(name: str) -> str:
    return name.split("/")[0]


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return repr(float(value))
    if isinstance(value, Mapping):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, (list, tuple)) else value
