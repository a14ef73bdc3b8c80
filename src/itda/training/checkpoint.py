"""Checkpoints: all that training needs to go on as if it had never stopped.

    checkpoints/<step:08d>/weights.safetensors     the model
                           optimizer.safetensors   tensors of the optimizer, and those in the loop's own state
                           state.json              everything else, as plain JSON, with the checksums of all three

A checkpoint is written whole or not at all, and what is no longer needed goes only after the new one is safe.
Nothing in it is code: tensors are safetensors, the rest is JSON.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from itda import durable, weights
from itda.errors import DamagedFileError, UserError

FORMAT = 1
WEIGHTS, OPTIMIZER, STATE = "weights.safetensors", "optimizer.safetensors", "state.json"
MIGRATIONS: dict[int, durable.Migration] = {}
"""For each older format, what turns a state.json of that format into one of the next."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints outlive a save: the newest ones, those still to be averaged, and the best one (its step)."""

    last: int = 3
    average: int = 1
    best: int | None = None
    off_schedule: frozenset[int] = frozenset()  # of interruptions: only the newest stays, and takes nobody's place

    def kept(self, steps: Collection[int], newest: int) -> set[int]:
        """Return which of the steps stay once `newest` is safe; later ones were found damaged and are replaced."""
        past = sorted(step for step in steps if step <= newest and step not in self.off_schedule)
        return {newest, *past[-max(self.last, self.average, 1) :]} | {step for step in past if step == self.best}


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found complete; `notices` says what had to be passed over to get to it."""

    path: Path
    step: int
    state: dict[str, Any]
    checksums: dict[str, str]
    optimizer: dict[str, Any]
    notices: tuple[str, ...] = ()

    def weights(self) -> dict[str, Tensor]:
        """Read the model's tensors, tied ones as one tensor."""
        return weights.read(self.path / WEIGHTS, self.checksums[WEIGHTS])

    def load_model(self, model: nn.Module) -> None:
        """Give a model these weights; raise UserError where they are not its own."""
        weights.load_into(model, self.weights(), self.path / WEIGHTS)

    def load_optimizer(self, optimizer: torch.optim.Optimizer) -> None:
        """Give an optimizer its state back bit for bit, learning rates included."""
        kind, source = type(optimizer).__name__, self.path / OPTIMIZER
        if self.optimizer["kind"] != kind:
            raise UserError(
                f"{source} is of {self.optimizer['kind']}, training uses {kind}; go on with the same train.optimizer"
            )
        saved = self.optimizer["state"]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        for number, entry in saved["state"].items():
            shape = list(parameters[number].shape) if number < len(parameters) else None
            # A scalar is a count of steps; every other tensor of a state has its parameter's shape.
            if any(isinstance(t, Tensor) and t.dim() and list(t.shape) != shape for t in entry.values()):
                raise UserError(
                    f"{source} does not fit: parameter {number} has shape {shape} in the model; "
                    "use the run's own config.toml"
                )
        try:
            optimizer.load_state_dict(saved)
        except ValueError as error:
            raise UserError(f"{source} does not fit the optimizer: {error}; use the run's own config.toml") from error


def save(
    folder: Path,
    step: int,
    model: Mapping[str, Tensor],
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    keep: Keep = Keep(),
) -> Path:
    """Write a checkpoint whole, then remove what `keep` names no more; raise MachineError where the disk refuses.

    `state` is whatever the loop wants back: JSON values, also tuples, tensors, infinities and NaN.
    """
    path = folder / f"{step:08d}"
    durable.make_folder(folder)
    durable.write_folder(path, _parts(step, model, optimizer, dict(state)))
    present = {int(p.name): p for p in folder.iterdir() if _is_step(p.name)}
    kept = keep.kept(present, step)
    durable.remove_whole(p for number, p in sorted(present.items()) if number not in kept)
    return path


def _parts(
    step: int, model: Mapping[str, Tensor], optimizer: torch.optim.Optimizer, state: dict[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """Yield the files one by one, so that only one of them is held in memory."""
    tensors: dict[str, Tensor] = {}
    packed_optimizer = {"kind": type(optimizer).__name__, "state": pack(optimizer.state_dict(), tensors, "optimizer")}
    body = {"format": FORMAT, "step": step, "optimizer": packed_optimizer, "state": pack(state, tensors, "state")}
    checksums = {}
    for name, content in ((WEIGHTS, model), (OPTIMIZER, tensors)):
        data = weights.to_bytes(content)
        checksums[name] = durable.checksum(data)
        yield name, data
    body["checksums"] = checksums
    yield STATE, durable.json_bytes(body | {"checksum": durable.checksum(durable.json_bytes(body))})


def steps(folder: Path) -> list[int]:
    """List the checkpoints of a folder, oldest first, damaged ones too."""
    return sorted(_step_of(path) for path in _entries(folder))


def read(path: Path) -> Checkpoint:
    """Read one checkpoint; raise DamagedFileError where anything in it is missing or altered."""
    for name in (STATE, OPTIMIZER, WEIGHTS):
        if not (path / name).is_file():
            raise DamagedFileError(f"{path / name} is missing")
    body = _read_state(path / STATE)
    if body["step"] != _step_of(path):
        raise DamagedFileError(f"{path} was renamed: it is the checkpoint of update {body['step']}")
    data = durable.read(path / OPTIMIZER)
    tensors = weights.from_bytes(data, path / OPTIMIZER)
    for name, content in ((OPTIMIZER, data), (WEIGHTS, durable.read(path / WEIGHTS))):
        if durable.checksum(content) != body["checksums"][name]:
            raise DamagedFileError(f"{path / name} is damaged: its checksum is not the one in {STATE}")
    packed = body["optimizer"]
    optimizer = {"kind": packed["kind"], "state": unpack(packed["state"], tensors)}
    return Checkpoint(path, body["step"], unpack(body["state"], tensors), body["checksums"], optimizer)


def latest(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is whole, None where there is none at all; change nothing.

    Raise DamagedFileError where all that are there are damaged: to begin anew is the owner's decision.
    """
    notices: list[str] = []
    for path in sorted(_entries(folder), key=_step_of, reverse=True):
        try:
            found = read(path)
        except DamagedFileError as error:
            notices.append(f"{str(error).split(';')[0]}; the checkpoint before it is used")
            continue
        return replace(found, notices=tuple(notices))
    if notices:
        raise DamagedFileError(
            f"no checkpoint in {folder} is whole (the newest: {notices[0].split(';')[0]}); train anew with --overwrite"
        )
    return None


def load_latest(folder: Path) -> Checkpoint | None:
    """Bring the folder in order after a kill and return its newest whole checkpoint; for the holder of the lock."""
    if folder.is_dir():
        with durable.reporting(folder):
            durable.recover(folder)
    return latest(folder)


@torch.no_grad()
def average(folders: Sequence[Path]) -> dict[str, Tensor]:
    """Return the mean of several checkpoints' weights, summed in float64; what is not a float comes from the last."""
    assert folders, "an average needs at least one checkpoint"
    sums: dict[str, Tensor] = {}
    for folder in folders:
        last = read(folder).weights()
        tied = weights.ties(last)
        for name in last.keys() - tied.keys():
            if last[name].is_floating_point():
                sums[name] = sums[name] + last[name].double() if name in sums else last[name].double()
    mean = {
        name: (sums[name] / len(folders)).to(last[name].dtype) if name in sums else last[name]
        for name in last.keys() - tied.keys()
    }
    return {name: mean[tied.get(name, name)] for name in sorted(last)}


def pack(tree: Any, tensors: dict[str, Tensor], name: str) -> Any:
    """Turn a tree of dicts, lists, tuples, scalars and tensors into plain JSON; tensors go to `tensors` by path.

    What JSON cannot say is a dict with one key that starts with "$". The order of keys is not kept.
    """
    if tree is None or isinstance(tree, (bool, int, str)):
        return tree
    if isinstance(tree, float):
        return float(tree) if math.isfinite(tree) else {"$float": repr(float(tree))}
    if isinstance(tree, Tensor):
        tensors[name] = tree
        return {"$tensor": name}
    if isinstance(tree, (list, tuple)):
        items = [pack(item, tensors, f"{name}.{number}") for number, item in enumerate(tree)]
        return items if isinstance(tree, list) else {"$tuple": items}
    if isinstance(tree, dict):
        keys = sorted(tree, key=lambda key: (type(key).__name__, key))
        if all(isinstance(key, str) and not key.startswith("$") for key in keys):
            return {key: pack(tree[key], tensors, f"{name}.{key}") for key in keys}
        return {"$dict": [[pack(key, tensors, name), pack(tree[key], tensors, f"{name}.{key}")] for key in keys]}
    raise TypeError(f"{name} is a {type(tree).__name__}; a checkpoint holds JSON values, tuples and tensors")


def unpack(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `pack`."""
    match tree:
        case {"$float": text}:
            return float(text)
        case {"$tensor": name}:
            return tensors[name]
        case {"$tuple": items}:
            return tuple(unpack(item, tensors) for item in items)
        case {"$dict": pairs}:
            return {unpack(key, tensors): unpack(value, tensors) for key, value in pairs}
        case dict():
            return {key: unpack(value, tensors) for key, value in tree.items()}
        case list():
            return [unpack(item, tensors) for item in tree]
    return tree


def _read_state(path: Path) -> dict[str, Any]:
    try:
        body = json.loads(durable.read(path))
        stated = body.pop("checksum")
        whole = durable.checksum(durable.json_bytes(body)) == stated
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{path} is truncated or damaged ({error})") from error
    if not whole:
        raise DamagedFileError(f"{path} is damaged: its checksum does not hold")
    return durable.migrate(body, path, FORMAT, MIGRATIONS)


def _is_step(name: str) -> bool:
    return re.fullmatch(r"\d{8,}", name) is not None


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix(durable.REPLACED))


def _entries(folder: Path) -> list[Path]:
    """List all checkpoints; one that was being replaced counts until its successor is there."""
    if not folder.is_dir():
        return []
    present = {p.name: p for p in folder.iterdir() if _is_step(p.name.removeprefix(durable.REPLACED))}
    return [p for name, p in present.items() if _is_step(name) or name.removeprefix(durable.REPLACED) not in present]
