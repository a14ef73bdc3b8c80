"""Tokenizers with a plain list of entries: characters, and words that keep the space in front of them."""

from __future__ import annotations

import functools
import json
import random
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from itda.errors import DamagedFileError
from itda.text.normalize import normalize

# The same numbers and names stand in itda.batch, which imports torch; a test holds the two together.
PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")
_COUNTED_AT_ONCE = 1_000_000


def split_characters(text: str) -> list[str]:
    """Cut a text into code points."""
    return list(text)


@functools.cache
def _word_pattern() -> re.Pattern[str]:
    """Compile: an optional space, then a run of word characters or one other character; or one white space.

    `\\w` alone would cut Indic words at their vowel signs and Persian ones at their joiners.
    """
    marks = [chr(c) for c in range(sys.maxunicode + 1) if unicodedata.category(chr(c)).startswith("M")]
    word = r"[\w\u200c\u200d" + re.escape("".join(marks)) + "]"
    return re.compile(rf" ?{word}+| ?\S|\s", re.DOTALL)


def split_words(text: str) -> list[str]:
    """Cut a text into words and single other characters, each with the one space in front of it.

    A space is put before the text, so that a word is the same entry at the start of a line and inside it; no
    other character is added or lost.
    """
    return _word_pattern().findall(" " + text) if text else []


SPLITTERS: Mapping[str, Callable[[str], list[str]]] = {"characters": split_characters, "words": split_words}


@dataclass(frozen=True, eq=False)
class ListTokenizer:
    """Characters or words, looked up in a list; what is not in the list is UNK."""

    kind: str
    normalization: str
    entries: tuple[str, ...]

    @functools.cached_property
    def _ids(self) -> dict[str, int]:
        return {entry: number for number, entry in enumerate(self.entries, len(SPECIALS))}

    @property
    def vocab_size(self) -> int:
        """Count the entries, the four special ones included."""
        return len(SPECIALS) + len(self.entries)

    @property
    def deterministic(self) -> bool:
        """Say that one text always gives the same ids."""
        return True

    def normalize(self, text: str) -> str:
        """Apply the stated Unicode normal form."""
        return normalize(text, self.normalization)

    def _split(self, text: str) -> list[str]:
        return SPLITTERS[self.kind](self.normalize(text))

    def encode(self, text: str) -> list[int]:
        """Turn a text into ids; the only special id that comes out is UNK."""
        ids = self._ids
        return [ids.get(part, UNK) for part in self._split(text)]

    def sample(self, text: str, random: random.Random) -> list[int]:
        """Encode: there is one way to cut a text into entries."""
        return self.encode(text)

    @functools.cached_property
    def spelling(self) -> list[bytes]:
        """The bytes that each id adds to a raw output, which `finish` turns into text."""
        unknown = self._gap + SPECIALS[UNK]
        return [b"", unknown.encode(), b"", b"", *(entry.encode("utf-8", "replace") for entry in self.entries)]

    @property
    def _gap(self) -> str:
        return " " if self.kind == "words" else ""

    def parts(self, text: str, inside: bool = False) -> list[tuple[int, bytes]]:
        """Cut a text into ids with the bytes of each, known or not; `inside`: as what goes on behind other text."""
        marked = self.normalize(text) if inside or not text else self._gap + self.normalize(text)
        pieces = _word_pattern().findall(marked) if self.kind == "words" else list(marked)
        return [(self._ids.get(piece, UNK), piece.encode("utf-8")) for piece in pieces]

    def finish(self, raw: bytes) -> str:
        """Turn a raw output into text."""
        return raw.decode("utf-8", "replace").removeprefix(self._gap)

    def decode(self, ids: Sequence[int], unknown: Mapping[int, str] | None = None) -> str:
        """Turn ids back into text; `unknown[position]` stands in for an UNK at that position of `ids`."""
        parts, gap = [], self._gap
        for position, number in enumerate(ids):
            if number >= len(SPECIALS):
                parts.append(self.entries[number - len(SPECIALS)])
            elif number == UNK:
                parts.append(gap + (unknown or {}).get(position, SPECIALS[UNK]))
        return "".join(parts).removeprefix(gap)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Name each id for a reader; a space before a word is left out, a lone space is shown as an open box."""
        offset = len(SPECIALS)
        return [_readable(SPECIALS[i] if i < offset else self.entries[i - offset], self.kind) for i in ids]

    def surfaces(self, text: str) -> list[str]:
        """Give the text behind each id of `encode(text)`, known or not, without the space in front of a word."""
        words = self.kind == "words"
        return [part.removeprefix(" ") if words and len(part) > 1 else part for part in self._split(text)]

    def to_bytes(self) -> bytes:
        """Write the entries as JSON."""
        return json.dumps(self.entries, ensure_ascii=False, indent=0).encode("utf-8")


def _readable(part: str, kind: str) -> str:
    if kind == "words" and len(part) > 1:
        part = part.removeprefix(" ")
    return "␣" if part == " " else part


def read_entries(data: bytes, name: str) -> tuple[str, ...]:
    """Read what `to_bytes` wrote."""
    try:
        entries = json.loads(data)
    except ValueError as error:
        raise DamagedFileError(
            f"{name} is not the JSON list that itda wrote ({error}); restore it, or train again."
        ) from None
    if not isinstance(entries, list) or not all(isinstance(entry, str) for entry in entries):
        raise DamagedFileError(f"{name} holds something else than a list of strings; restore it, or train again.")
    return tuple(entries)


def count_entries(texts: Iterable[str], kind: str, vocab_size: int, min_count: int) -> tuple[str, ...]:
    """Choose the most frequent entries of normalised texts, the more frequent first, ties in code point order."""
    split, counts = SPLITTERS[kind], Counter[str]()
    for text in texts:
        counts.update(split(text))
        if len(counts) > _COUNTED_AT_ONCE:  # so that a corpus of any size fits: what was seen once is forgotten
            counts = Counter({entry: count for entry, count in counts.items() if count > 1})
    kept = sorted((-count, entry) for entry, count in counts.items() if count >= min_count)
    return tuple(entry for _, entry in kept[: max(0, vocab_size - len(SPECIALS))])
