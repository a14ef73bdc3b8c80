"""What every text generator makes, and how its examples are divided into splits."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from random import Random

from itda.errors import UserError

Link = tuple[int, int]


@dataclass(frozen=True)
class Example:
    """A generated pair with its gold alignment, in (source character, target character) indices.

    `alignment` holds the sure links; `possible` holds those and the links that are right but not required, such
    as each letter of "March" to each digit of "03". An aligner owes us the sure ones and may choose among the rest.
    A target character with no possible link (a hyphen, or the 0 that makes "5" an "05") is stated by nothing in the
    source, and is not scored.
    """

    src: str
    tgt: str
    alignment: frozenset[Link]
    possible: frozenset[Link] = field(default=frozenset())

    def __post_init__(self) -> None:
        """Let the sure links be possible too, as the alignment error rate wants it."""
        object.__setattr__(self, "possible", self.possible | self.alignment)

    def pharaoh(self) -> str:
        """Write the links as one line: `i-j` is sure, `i?j` only possible; i counts source characters from 0."""
        ordered = sorted(self.possible, key=lambda link: (link[1], link[0]))
        return " ".join(f"{i}{'-' if (i, j) in self.alignment else '?'}{j}" for i, j in ordered)


@dataclass(frozen=True)
class Generator:
    """A named source of examples: a line of help, the default number of pairs of each split, and its function.

    `draw(random, split)` gives one example that belongs to `split`; `capacity` is how many distinct sources of
    each split may be asked for, so that drawing without repetition ends.
    """

    help: str
    pairs: dict[str, int]
    capacity: dict[str, int]
    draw: Callable[[Random, str], Example]
    about: str = ""

    def examples(self, name: str, seed: int, pairs: int, split: str) -> Iterator[Example]:
        """Draw `pairs` examples with distinct sources; equal arguments give equal examples on every machine."""
        if split not in self.pairs:
            raise UserError(f"generator '{name}' has no split '{split}'; its splits are {', '.join(self.pairs)}.")
        if not 0 <= pairs <= self.capacity[split]:
            raise UserError(
                f"{pairs} pairs of '{name}' ({split}) were asked for; it must be 0 (the default, "
                f"{self.pairs[split]}) to {self.capacity[split]}, because no source is drawn twice."
            )
        return self._distinct(Random(f"{name}/{split}/{seed}"), pairs or self.pairs[split], split)

    def _distinct(self, random: Random, pairs: int, split: str) -> Iterator[Example]:
        seen: set[str] = set()
        while len(seen) < pairs:
            example = self.draw(random, split)
            if example.src not in seen:
                seen.add(example.src)
                yield example


def split_of(key: str) -> str:
    """Name the split that `key` belongs to, for ever: a tenth each is valid and test, whatever the seed."""
    bucket = hashlib.blake2b(key.encode(), digest_size=8).digest()[0] % 10
    return {0: "test", 1: "valid"}.get(bucket, "train")
