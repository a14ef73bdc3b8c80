"""Phrases found in text while it is written, whatever tokens it is cut into: an automaton over bytes.

A token is a walk of several bytes. The walks of the whole vocabulary from one node are taken together, once for
each node that a search comes to. So a phrase is seen however subwords, characters or single bytes spell it.
"""

from __future__ import annotations

import functools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itda.text.tokenizer import Tokenizer

SPACE, LINE_ENDS = 0x20, (0x0A, 0x0D)
_FREE, _WORD, _HIGH = range(3)  # what the byte before was: no part of a word, an ASCII letter or digit, not ASCII
# Scripts that are written without spaces: there, a phrase may stand right behind another word.
_UNSPACED = ((0xE00, 0xEFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x2E80, 0x31FF), (0x3400, 0x9FFF), (0xF900, 0xFAFF))
_IDEOGRAPHS = 0x20000


class Spelling:
    """The bytes of each token of a vocabulary, laid out so that all tokens can be walked together."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    @functools.cached_property
    def tokens(self) -> list[bytes]:
        """The bytes of each token."""
        return self.tokenizer.spelling

    @functools.cached_property
    def drops_space(self) -> bool:
        """Say whether the one space before a text is no part of it."""
        return self.tokenizer.finish(b" ") == ""

    @functools.cached_property
    def table(self) -> tuple[np.ndarray, np.ndarray, list[int]]:
        """Order tokens by length, the longest first; give the order, their bytes, and how many reach each position."""
        lengths = np.array([len(spelled) for spelled in self.tokens])
        order = np.argsort(-lengths, kind="stable")
        longest = int(lengths.max(initial=0))
        columns = np.zeros((longest, len(lengths)), dtype=np.uint8)
        for place, token in enumerate(order):
            columns[: lengths[token], place] = np.frombuffer(self.tokens[token], dtype=np.uint8)
        return order, columns, [int((lengths > position).sum()) for position in range(longest)]


@dataclass(frozen=True)
class Walks:
    """Where each token leads from one node, and which phrases (as bits) end inside it."""

    nodes: np.ndarray
    hits: np.ndarray


def inside_word(char: str) -> bool:
    """Say whether a character belongs to a word of a script that puts spaces between words."""
    code = ord(char)
    spaced = not any(low <= code <= high for low, high in _UNSPACED) and code < _IDEOGRAPHS
    return spaced and (char.isalnum() or unicodedata.category(char).startswith("M"))


class Automaton:
    """Finds phrases in a stream of bytes; `whole` ones only where they do not begin inside a word.

    A node is what the last bytes are the beginnings of, and what the byte before them was. Several spellings
    (such as composed and decomposed characters) may stand for one phrase: they set the same bit.
    """

    def __init__(
        self, spelling: Spelling, phrases: Sequence[tuple[bytes, int]], whole: Sequence[bool] | None = None
    ) -> None:
        """Build from (bytes, number) pairs; the first node is that of the empty text."""
        self.spelling, self._phrases = spelling, [phrase for phrase, _ in phrases]
        self._bits = [1 << number for _, number in phrases]
        whole = whole or [False] * len(phrases)
        self._needs = [_needed(phrase) if one else _HIGH for phrase, one in zip(self._phrases, whole, strict=True)]
        self._first: dict[int, list[int]] = {}
        for number, phrase in enumerate(self._phrases):
            self._first.setdefault(phrase[0], []).append(number)
        self._walks: dict[int, Walks] = {}
        self._build()

    def _build(self) -> None:
        """Find all nodes, breadth first from the three that have nothing begun."""
        roots = [(kind, frozenset[tuple[int, int]]()) for kind in (_FREE, _WORD, _HIGH)]
        # What ends at a node is told by the node, so two nodes that differ in it alone are two.
        numbers = {(*node, 0): number for number, node in enumerate(roots)}
        queue, rows, hits = list(roots), list[np.ndarray](), [0, 0, 0]
        for number, (kind, active) in enumerate(queue):
            if active:
                row = rows[kind].copy()
                asked = {self._phrases[phrase][done] for phrase, done in active}
            else:
                row = np.array([_kind(byte) for byte in range(256)], dtype=np.int32)
                asked = set(self._first)
            for byte in asked:
                after, bits = self._advance(kind, active, byte)
                key = (_kind(byte), after, bits)
                if key not in numbers:
                    numbers[key] = len(queue)
                    queue.append(key[:2])
                    hits.append(bits)
                row[byte] = numbers[key]
            row[list(LINE_ENDS)] = row[SPACE]  # an output is one line
            rows.append(row)
            assert len(rows) == number + 1
        start = rows[_FREE].copy()
        if self.spelling.drops_space:
            start[SPACE] = _FREE
        self.start = len(rows)
        self._next, self._hits = np.stack([*rows, start]), np.array([*hits, 0], dtype=np.int64)

    def _advance(
        self, kind: int, active: frozenset[tuple[int, int]], byte: int
    ) -> tuple[frozenset[tuple[int, int]], int]:
        begun = [(number, 1) for number in self._first.get(byte, ()) if _may_begin(kind, self._needs[number])]
        went_on = [(number, done + 1) for number, done in active if self._phrases[number][done] == byte]
        bits, after = 0, set[tuple[int, int]]()
        for number, done in (*begun, *went_on):
            if done == len(self._phrases[number]):
                bits |= self._bits[number]
            else:
                after.add((number, done))
        return frozenset(after), bits

    def walk(self, node: int, spelled: bytes) -> tuple[int, int]:
        """Walk these bytes: where they lead, and which phrases end in them."""
        bits = 0
        for byte in spelled:
            node = int(self._next[node, byte])
            bits |= int(self._hits[node])
        return node, bits

    def walks(self, node: int) -> Walks:
        """Walk each token of the vocabulary."""
        if node not in self._walks:
            order, columns, counts = self.spelling.table
            nodes, hits = np.full(len(order), node, dtype=np.int32), np.zeros(len(order), dtype=np.int64)
            for column, count in zip(columns, counts, strict=True):
                nodes[:count] = self._next[nodes[:count], column[:count]]
                hits[:count] |= self._hits[nodes[:count]]
            placed = np.empty_like(nodes), np.empty_like(hits)
            placed[0][order], placed[1][order] = nodes, hits
            self._walks[node] = Walks(*placed)
        return self._walks[node]


def _kind(byte: int) -> int:
    if byte >= 0x80:
        return _HIGH
    return _WORD if chr(byte).isalnum() else _FREE


def _needed(phrase: bytes) -> int:
    """Say before what a phrase may begin: _FREE: only before no word; _WORD: not behind ASCII; _HIGH: anywhere."""
    first = phrase.decode("utf-8")[0]
    if not inside_word(first):
        return _HIGH
    return _WORD if first.isascii() else _FREE


def _may_begin(kind: int, needs: int) -> bool:
    if needs == _HIGH:
        return True
    return kind == _FREE or (needs == _WORD and kind == _HIGH)
