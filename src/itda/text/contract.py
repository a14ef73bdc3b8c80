"""What a tokenizer is: one side's way from text to ids and back."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable


@runtime_checkable
class Tokenizer(Protocol):
    """One side's way from text to ids and back: decode(encode(x)) == normalize(x) where nothing is unknown."""

    @property
    def kind(self) -> str:
        """Name the family."""

    @property
    def normalization(self) -> str:
        """Name the Unicode normal form."""

    @property
    def vocab_size(self) -> int:
        """Count the entries, the four special ones included."""

    @property
    def deterministic(self) -> bool:
        """Say whether `sample` always equals `encode`."""

    def normalize(self, text: str) -> str:
        """Apply the stated Unicode normal form, and nothing else."""

    def encode(self, text: str) -> list[int]:
        """Turn a text into ids, without bos and eos; the only special id that may come out is UNK."""

    def sample(self, text: str, random: random.Random) -> list[int]:
        """Turn a text into ids of a segmentation drawn with `random`; `encode` where sampling is off."""

    def decode(self, ids: Sequence[int], unknown: Mapping[int, str] | None = None) -> str:
        """Turn ids back into text, without PAD, BOS and EOS; `unknown[position]` stands in for an UNK there."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Name each id for a reader."""

    def surfaces(self, text: str) -> list[str]:
        """Give the text behind each id of `encode(text)`, known or not."""

    @property
    def spelling(self) -> list[bytes]:
        """The bytes that each id adds to a raw output, which `finish` turns into text."""

    def parts(self, text: str, inside: bool = False) -> list[tuple[int, bytes]]:
        """Cut a text into ids with the bytes of each, known or not; `inside`: as what goes on behind other text."""

    def finish(self, raw: bytes) -> str:
        """Turn a raw output, the bytes of its ids one after the other, into text."""

    def to_bytes(self) -> bytes:
        """Write what the ids depend on."""
