"""The order of an epoch: a pure function of seed, epoch and number, free of any generator's hidden state."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 4096  # pairs that lie together on the disk and are read together
WINDOW = 65536  # pairs among which batches are formed; what an epoch holds in memory
WORD = (1 << 64) - 1
Numbers = npt.NDArray[np.int64]


def mixed(seed: int, epoch: int, salt: int, numbers: Numbers) -> npt.NDArray[np.uint64]:
    """Hash each number with splitmix64 (Steele et al. 2014); equal in every version of numpy and on every machine."""
    state = 0
    for part in (seed, epoch, salt):
        state = _splitmix((state + part) & WORD)
    hashes: npt.NDArray[np.uint64] = _splitmix(numbers.astype(np.uint64) + np.uint64(state))
    return hashes


def _splitmix(value: Any) -> Any:
    """One int, or an array of them: Python's grow and are cut back to 64 bits, numpy's wrap around by themselves."""
    value = (value + 0x9E3779B97F4A7C15) & WORD
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & WORD
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & WORD
    return value ^ (value >> 31)


def shuffled(seed: int, epoch: int, salt: int, numbers: Numbers) -> Numbers:
    """Permute some distinct numbers."""
    if len(numbers) < 2:  # most epochs of a toy have one batch
        return numbers
    return numbers[np.argsort(mixed(seed, epoch, salt, numbers), kind="stable")]


def windows(pairs: int, seed: int, epoch: int, window: int = WINDOW, block: int = BLOCK) -> Iterator[Numbers]:
    """Cut an epoch into windows of pair numbers: blocks in a shuffled order, and shuffled pairs in a window."""
    block = min(block, window, pairs)
    blocks = shuffled(seed, epoch, 1, np.arange(-(-pairs // block), dtype=np.int64))
    for start in range(0, len(blocks), window // block):
        firsts = blocks[start : start + window // block] * block
        numbers = (firsts[:, None] + np.arange(block, dtype=np.int64)).ravel()
        yield shuffled(seed, epoch, 2, numbers[numbers < pairs])
