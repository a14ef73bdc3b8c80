"""Alignments of a corpus: Pharaoh lines, read in step with their pairs and lifted to tokens.

A line holds the links of one pair, `i-j` (sure) or `i?j` (possible): unit i of the first column, unit j of the
second, from 0; white space between them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from itda.config import DataConfig
from itda.data.catalog import locate
from itda.data.corpus import CorpusFiles, Pair
from itda.data.lines import Line, read_lines
from itda.errors import UserError
from itda.text.tokenizer import TokenizerPair
from itda.text.units import Span, count_units, respelled, unit_spans

Link = tuple[int, int]
Links = npt.NDArray[np.int32]  # (links, 2): source token, target token


@dataclass(frozen=True)
class Alignments:
    """Where the links of a corpus are, what they count, and whether the corpus is read with its columns swapped."""

    files: CorpusFiles
    unit: str
    swap: bool

    def lines(self) -> Iterator[Line]:
        """Stream the lines, or write those of a generator."""
        if not self.files.generator:
            yield from read_lines(self.files.paths[0])
            return
        from itda.data.synthetic import make  # only generated corpora need it

        files = self.files
        made = make(files.generator, seed=files.seed, pairs=files.pairs, split=files.split)
        yield from (Line(number, example.pharaoh()) for number, example in enumerate(made, start=1))


def find_alignments(config: DataConfig) -> Alignments | None:
    """Find the alignments of the training pairs, where a recipe has some."""
    if not config.alignments:
        return None
    files = locate(config.alignments, seed=config.seed, pairs=config.pairs)
    if files.kind not in ("tsv", "generated"):
        raise UserError(f"data.alignments is {config.alignments}; it must be one file, with a line for each pair.")
    return Alignments(files, config.alignment_unit, config.swap)


class LinkReader:
    """Reads alignments in step with their corpus: a line too few or too many is an error, never a shift."""

    def __init__(self, alignments: Alignments, tokenizers: TokenizerPair) -> None:
        self.alignments, self.tokenizers = alignments, tokenizers
        self._lines, self._read = alignments.lines(), 0

    def links(self, pair: Pair, ids: Sequence[Sequence[int]]) -> Links | None:
        """Give the links between the tokens of a pair; None where its normalisation leaves no position to trust."""
        line = self._line(pair.number)
        where, unit = f"{self.alignments.files}, line {line.number}", self.alignments.unit
        try:
            sure, possible = parse_links(line.text)
        except UserError as error:
            raise UserError(f"{where}: {error}") from None
        sides = [(self.tokenizers.src, pair.src), (self.tokenizers.tgt, pair.tgt)]
        counts = [count_units(text, unit, len(some)) for (_, text), some in zip(sides, ids, strict=True)]
        links = {(j, i) if self.alignments.swap else (i, j) for i, j in sure | possible}
        for i, j in links:
            if i >= counts[0] or j >= counts[1]:
                named, sizes = ((j, i), counts[::-1]) if self.alignments.swap else ((i, j), counts)
                raise UserError(
                    f"{where}: link {named[0]}-{named[1]} points outside its pair of {sizes[0]} and {sizes[1]} {unit}; "
                    "positions count from 0, and data.alignment_unit says what is counted."
                )
        src, tgt = (unit_spans(tokenizer, text, unit) for tokenizer, text in sides)
        return None if src is None or tgt is None else lifted(links, src, tgt)

    def finish(self, lines: int) -> None:
        """Make sure that there are as many lines as the corpus has."""
        read = self._read + sum(1 for _ in self._lines)
        if read != lines:
            raise UserError(
                f"{self.alignments.files} has {read} lines, and its corpus has {lines}; each line must align the pair "
                "on that line: give an empty line to a pair without links."
            )

    def _line(self, number: int) -> Line:
        for line in self._lines:
            self._read = line.number
            if line.number == number:
                if line.cut:
                    raise UserError(f"{self.alignments.files}, line {number} is too long for the links of one pair.")
                return line
        raise UserError(
            f"{self.alignments.files} has {self._read} lines, and its corpus has a pair on line {number}; each line "
            "must align the pair on that line: give an empty line to a pair without links."
        )


def parse_links(line: str) -> tuple[set[Link], set[Link]]:
    """Read a Pharaoh line: `i-j` sure, `i?j` (or `ipj`) possible, counting from 0."""
    sure: set[Link] = set()
    possible: set[Link] = set()
    for field in line.split():
        mark = next((mark for mark in "-?p" if mark in field), "")
        i, found, j = field.partition(mark) if mark else (field, "", "")
        if not (found and i.isdecimal() and j.isdecimal()):
            raise UserError(f"alignment link '{field}' is not understood; write i-j (sure) or i?j (possible).")
        (sure if mark == "-" else possible).add((int(i), int(j)))
    return sure, possible


def lifted(links: Iterable[Link], src: Sequence[Span], tgt: Sequence[Span]) -> Links:
    """Link each token of a source unit with each token of the target unit that it is linked to."""
    found = {(i, j) for one, other in links for i in range(*src[one]) for j in range(*tgt[other])}
    return np.array(sorted(found), dtype=np.int32).reshape(-1, 2)


def relifted(links: Links, before: Sequence[Sequence[bytes]], after: Sequence[Sequence[bytes]]) -> Links:
    """Carry links over to another spelling of both sides, given as the bytes of each token."""
    src, tgt = (respelled(one, other) for one, other in zip(before, after, strict=True))
    return lifted(((int(i), int(j)) for i, j in links), src, tgt)


def alignment_matrix(links: Sequence[Links], tgt_length: int, src_length: int) -> npt.NDArray[np.float32]:
    """Lay links out as (pairs, target, source): a row sums to 1 over the tokens it is linked to, or to 0."""
    matrix = np.zeros((len(links), tgt_length, src_length), dtype=np.float32)
    for number, some in enumerate(links):
        matrix[number, some[:, 1], some[:, 0]] = 1.0
    return np.asarray(matrix / np.maximum(matrix.sum(axis=2, keepdims=True), 1.0), dtype=np.float32)
