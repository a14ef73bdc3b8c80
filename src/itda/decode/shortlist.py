"""A vocabulary shortlist as a file of the run folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from itda import weights
from itda.data.lexicon import Lexicon
from itda.errors import DamagedFileError

TYPES = {"ends": np.int32, "targets": np.int32, "chances": np.float32, "frequent": np.int32, "per_sentence": np.int32}


def to_bytes(lexicon: Lexicon) -> bytes:
    """Return the content of a shortlist file (safetensors)."""
    parts = {name: np.asarray(getattr(lexicon, name), dtype=kind) for name, kind in TYPES.items()}
    return weights.to_bytes({name: torch.from_numpy(part) for name, part in parts.items()})


def read(path: Path, checksum: str | None, src_vocab: int, tgt_vocab: int) -> Lexicon:
    """Read a shortlist file; raise DamagedFileError where it is not whole, or not for vocabularies of these sizes."""
    tensors = weights.read(path, checksum)
    if tensors.keys() != TYPES.keys():
        raise DamagedFileError(f"{path} is no shortlist: it holds {', '.join(sorted(tensors))}; make it anew")
    parts = {name: tensors[name].numpy() for name in TYPES}
    ends, targets, frequent = (parts[name].astype(np.int64) for name in ("ends", "targets", "frequent"))
    if len(ends) != src_vocab or (np.diff(ends, prepend=0, append=len(targets)) < 0).any():
        raise DamagedFileError(f"{path} does not fit the vocabulary of the source; make it anew: itda shortlist RUN")
    words = np.concatenate([targets, frequent])
    if len(targets) != len(parts["chances"]) or (len(words) and not 0 <= words.min() <= words.max() < tgt_vocab):
        raise DamagedFileError(f"{path} does not fit the vocabulary of the target; make it anew: itda shortlist RUN")
    return Lexicon(ends, targets, parts["chances"], frequent, int(parts["per_sentence"]))
