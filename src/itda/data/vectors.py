"""Pairs of real-valued sequences: from an .npz file, or drawn for the lecture's program."""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from numpy.lib.npyio import NpzFile

from itda.config import DataConfig
from itda.data.synthetic import normal_vectors
from itda.errors import UserError

Series = npt.NDArray[np.float32]


@dataclass(frozen=True)
class VectorPairs:
    """Sources and targets, each (length, dim); held in memory."""

    src: Sequence[Series]
    tgt: Sequence[Series]

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.src)

    def lengths(self) -> npt.NDArray[np.int32]:
        """Give (pairs, 2) numbers of source and target positions."""
        return np.array([(len(s), len(t)) for s, t in zip(self.src, self.tgt, strict=True)], dtype=np.int32)

    def sha256(self) -> str:
        """Hash all numbers."""
        digest = hashlib.sha256()
        for values in (*self.src, *self.tgt):
            digest.update(np.ascontiguousarray(values).tobytes() + str(values.shape).encode())
        return digest.hexdigest()


def load_vectors(name: str, config: DataConfig) -> VectorPairs:
    """Read FILE.npz, or draw make:normal.

    The file holds `src` (pairs, length, dim) and `tgt`, and, where lengths differ, `src_lengths` and `tgt_lengths`.
    """
    if name == "make:normal":
        drawn = normal_vectors(config.seed, config.pairs or 2, config.length, config.src_dim, config.tgt_dim)
        return VectorPairs(list(drawn[0]), list(drawn[1]))
    if name.startswith("make:"):
        raise UserError(f"{name} makes no vectors; for data.kind = vectors name make:normal or a file.npz.")
    path = Path(name)
    if not path.is_file():
        raise UserError(
            f"there is no file {path}; data.kind = vectors takes an .npz file with the arrays src and tgt, "
            "or make:normal."
        )
    try:
        # Not numpy.load, which leaves the file open where it is no .npz, and reads other formats.
        with path.open("rb") as file, NpzFile(file, allow_pickle=False) as arrays:
            sides = [
                _side(path, dict(arrays), side, dim) for side, dim in (("src", config.src_dim), ("tgt", config.tgt_dim))
            ]
    except (ValueError, OSError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise UserError(
            f"{path} cannot be read as .npz ({error}); save it with numpy.savez(path, src=..., tgt=...)."
        ) from None
    return check_vectors(VectorPairs(*sides), str(path))


def check_vectors(pairs: VectorPairs, name: str) -> VectorPairs:
    """Refuse unequal numbers of sources and targets, nothing at all, and numbers that are not finite."""
    if len(pairs.src) != len(pairs.tgt):
        raise UserError(
            f"{name} has {len(pairs.src)} sources and {len(pairs.tgt)} targets; each source needs its target."
        )
    if not len(pairs):
        raise UserError(f"{name} has no pair; give at least one.")
    for side, series in (("src", pairs.src), ("tgt", pairs.tgt)):
        for number, values in enumerate(series):
            if not len(values) or not np.isfinite(values).all():
                raise UserError(
                    f"{name}: {side} {number} is empty or holds NaN or infinity; every position must be finite numbers."
                )
    return pairs


def _side(path: Path, arrays: dict[str, npt.NDArray[np.float32]], side: str, dim: int) -> list[Series]:
    if side not in arrays:
        raise UserError(f"{path} has no array {side}; it has {', '.join(arrays) or 'none'}.")
    values = np.asarray(arrays[side], dtype=np.float32)
    if values.ndim != 3 or values.shape[2] != dim:
        raise UserError(
            f"{path}: {side} has shape {values.shape}; it must be (pairs, length, {dim}), with data.{side}_dim = {dim}."
        )
    lengths = np.asarray(arrays.get(f"{side}_lengths", np.full(len(values), values.shape[1])), dtype=np.int64)
    if lengths.shape != (len(values),) or (lengths < 1).any() or (lengths > values.shape[1]).any():
        raise UserError(f"{path}: {side}_lengths must be {len(values)} numbers from 1 to {values.shape[1]}.")
    return [row[:length] for row, length in zip(values, lengths.tolist(), strict=True)]
