"""A vocabulary shortlist as a file of the run folder, and the words that it offers a sentence."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import torch

from itda import weights
from itda.data.lexicon import Lexicon
from itda.errors import DamagedFileError

MODES = ("off", "on", "certified")
NAMES = ("ends", "targets", "frequent")


def to_bytes(lexicon: Lexicon) -> bytes:
    """Return the content of a shortlist file (safetensors)."""
    return weights.to_bytes({name: torch.from_numpy(getattr(lexicon, name).astype(np.int32)) for name in NAMES})


def read(path: Path, checksum: str | None, src_vocab: int, tgt_vocab: int) -> Lexicon:
    """Read a shortlist file; raise DamagedFileError where it is not whole, or not for vocabularies of these sizes."""
    tensors = weights.read(path, checksum)
    if sorted(tensors) != sorted(NAMES):
        raise DamagedFileError(f"{path} is no shortlist: it holds {', '.join(sorted(tensors))}; make it anew")
    lexicon = Lexicon(*(tensors[name].numpy().astype(np.int64) for name in NAMES))
    words = np.concatenate([lexicon.targets, lexicon.frequent])
    ends = np.concatenate([[0], lexicon.ends, [len(lexicon.targets)]])
    if lexicon.num_sources != src_vocab or (np.diff(ends) < 0).any() or ends[-2] != ends[-1]:
        raise DamagedFileError(f"{path} does not fit the vocabulary of the source; make it anew: itda shortlist RUN")
    if len(words) and not 0 <= words.min() <= words.max() < tgt_vocab:
        raise DamagedFileError(f"{path} does not fit the vocabulary of the target; make it anew: itda shortlist RUN")
    return lexicon


def offered(lexicon: Lexicon, source: Sequence[int], named: Iterable[int]) -> np.ndarray:
    """The words for one sentence: those of its tokens, the frequent ones, and those that a wish names."""
    return np.union1d(lexicon.candidates(source), np.fromiter(named, dtype=np.int64))
