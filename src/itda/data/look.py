"""A first look at a corpus: what the reader kept and skipped, how long the sides are, a few pairs."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field
from typing import Any

from itda.data.corpus import CorpusFiles, Pair, ReadReport, read_pairs


@dataclass
class Lengths:
    """A histogram of lengths, so that a corpus of any size is summed up in little memory."""

    counts: Counter[int] = field(default_factory=Counter)

    def at(self, share: float) -> int:
        """Return the length that this share of all lengths does not exceed."""
        wanted, seen = share * self.counts.total(), 0
        for length in sorted(self.counts):
            seen += self.counts[length]
            if seen >= wanted:
                return length
        return 0

    def summary(self) -> dict[str, float]:
        """Sum up as shortest, median, mean, 95th percentile and longest."""
        total = self.counts.total()
        mean = sum(length * count for length, count in self.counts.items()) / total if total else 0.0
        return {"min": self.at(0), "median": self.at(0.5), "mean": mean, "p95": self.at(0.95), "max": self.at(1)}


@dataclass(frozen=True)
class Look:
    """What `look` found."""

    files: CorpusFiles
    report: ReadReport
    lengths: dict[str, dict[str, Lengths]]
    examples: list[Pair]

    def as_json(self) -> dict[str, Any]:
        """Give everything as values for JSON."""
        return {
            "corpus": self.files.name,
            "files": [str(path) for path in self.files.paths],
            "lines": self.report.lines,
            "pairs": self.report.pairs,
            "skipped": {reason: asdict(found) for reason, found in self.report.skipped.items()},
            "noticed": {what: asdict(found) for what, found in self.report.noticed.items()},
            "lengths": {side: {u: one.summary() for u, one in units.items()} for side, units in self.lengths.items()},
            "examples": [asdict(pair) for pair in self.examples],
        }


def look(files: CorpusFiles, *, swap: bool = False, num_examples: int = 3) -> Look:
    """Read a whole corpus once and sum it up; raises what `read_pairs` raises."""
    report = ReadReport()
    lengths = {side: {"characters": Lengths(), "words": Lengths()} for side in ("src", "tgt")}
    examples: list[Pair] = []
    for pair in read_pairs(files, swap=swap, report=report):
        if len(examples) < num_examples:
            examples.append(pair)
        for side, text in (("src", pair.src), ("tgt", pair.tgt)):
            lengths[side]["characters"].counts[len(text)] += 1
            lengths[side]["words"].counts[len(text.split())] += 1
    return Look(files, report, lengths, examples)
