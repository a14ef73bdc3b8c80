"""A model's tensors as a safetensors file: equal tensors give equal bytes, tied ones are written once.

Two names are tied where they are the same memory (a shared embedding). The file keeps the tensor under the first
name and a note of the others; loading gives one tensor under all of its names.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from itda import durable
from itda.errors import DamagedFileError, UserError

FORMAT = 1
REMEDY = "copy the run folder again, go on from a checkpoint with --resume, or train anew"


def ties(tensors: Mapping[str, Tensor]) -> dict[str, str]:
    """Return for each name whose tensor has an earlier name too that first name, in alphabetical order."""
    first: dict[tuple[object, ...], str] = {}
    found = {}
    for name in sorted(tensors):
        tensor = tensors[name]
        if tensor.numel() == 0:  # all empty tensors live at address 0
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if place in first:
            found[name] = first[place]
        else:
            first[place] = name
    return found


def to_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a weight file."""
    tied = ties(tensors)
    # A clone each: views of one storage (a fused LSTM's) are not ties, and safetensors would refuse them.
    unique = {name: tensors[name].detach().cpu().contiguous().clone() for name in sorted(tensors) if name not in tied}
    # One key only: safetensors writes several in an order that changes from call to call.
    note = json.dumps({"format": FORMAT, "ties": tied}, sort_keys=True)
    return safetensors.torch.save(unique, {"itda": note})


def from_bytes(data: bytes, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a weight file; `path` is for messages."""
    try:
        tensors = safetensors.torch.load(data)
        length = int.from_bytes(data[:8], "little")
        note = json.loads(json.loads(data[8 : 8 + length]).get("__metadata__", {}).get("itda", "{}"))
        newer = note.get("format", FORMAT) > FORMAT
        if not newer:
            tensors |= {name: tensors[first] for name, first in note.get("ties", {}).items()}
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is truncated or damaged ({str(error) or type(error).__name__}); {REMEDY}"
        ) from error
    if newer:
        raise UserError(f"{path} has format {note['format']}; this itda reads up to {FORMAT}; install a newer itda")
    return tensors


def read(path: Path, checksum: str | None = None) -> dict[str, Tensor]:
    """Read a weight file; raise DamagedFileError where it is not whole or not what `checksum` says."""
    data = durable.read(path)
    tensors = from_bytes(data, path)
    if checksum is not None and durable.checksum(data) != checksum:
        raise DamagedFileError(f"{path} is damaged: its checksum is not the one on record; {REMEDY}")
    return tensors


@torch.no_grad()
def load_into(model: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Copy tensors into a model; raise UserError where names, shapes, types or ties are not the model's."""
    targets = model.state_dict()
    _check_names(targets, tensors, path)
    for name, target in targets.items():
        given = tensors[name]
        if (given.shape, given.dtype) != (target.shape, target.dtype):
            raise UserError(
                f"{path} does not fit the model: {name} is {_kind(given)}, in the model {_kind(target)}; "
                "use the config.toml that the weights were trained with"
            )
    _check_ties(targets, tensors, path)
    for name, target in targets.items():
        target.copy_(tensors[name])


def _check_names(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    missing, extra = sorted(targets.keys() - tensors.keys()), sorted(tensors.keys() - targets.keys())
    if missing or extra:
        raise UserError(
            f"{path} does not fit the model: missing {_some(missing)}; not in the model: {_some(extra)}; "
            "use the config.toml that the weights were trained with"
        )


def _check_ties(targets: Mapping[str, Tensor], tensors: Mapping[str, Tensor], path: Path) -> None:
    """A tie that only one side has would lose an update or a tensor in silence."""
    model_ties, file_ties = ties(targets), ties(tensors)
    for name, first in model_ties.items():
        if name not in file_ties and not torch.equal(tensors[name], tensors[first]):
            raise UserError(
                f"{path} does not fit the model: {first} and {name} differ in the file, "
                "in the model they are one tensor; check model.tie"
            )
    for name, first in file_ties.items():
        if model_ties.get(name) != first:
            raise UserError(
                f"{path} does not fit the model: {first} and {name} are one tensor in the file, "
                "in the model they are two; check model.tie"
            )


def _kind(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "") if names else "nothing"
