"""Generated corpora: seeded, the same on every machine, split without leaks, with a gold alignment; no torch.

`make` yields examples, `write` makes the files of `itda data make NAME`, `normal_vectors` the lecture's numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from difflib import get_close_matches
from pathlib import Path

from itda.data.synthetic.dates import DATES
from itda.data.synthetic.example import Example, Generator, Link
from itda.data.synthetic.files import write_corpus
from itda.data.synthetic.reverse import REVERSE
from itda.data.synthetic.vectors import normal_vectors
from itda.errors import UserError

__all__ = ["GENERATORS", "VECTOR_GENERATORS", "Example", "Generator", "Link", "find", "make", "normal_vectors", "write"]

GENERATORS: dict[str, Generator] = {"dates": DATES, "reverse": REVERSE}
VECTOR_GENERATORS = {"normal": "real vectors from a standard normal distribution: the lecture's program"}


def find(name: str) -> Generator:
    """Look a text generator up by its name."""
    if name in GENERATORS:
        return GENERATORS[name]
    if name in VECTOR_GENERATORS:
        raise UserError(f"generator '{name}' makes real vectors, not text; set data.kind = \"vectors\" in a recipe.")
    if not name:
        raise UserError(f"make: names no generator; there are {', '.join([*GENERATORS, *VECTOR_GENERATORS])}.")
    close = get_close_matches(name, GENERATORS, n=1)
    hint = f"; did you mean '{close[0]}'?" if close else "."
    raise UserError(f"unknown generator '{name}'; there are {', '.join([*GENERATORS, *VECTOR_GENERATORS])}{hint}")


def make(name: str, *, seed: int = 1, pairs: int = 0, split: str = "train") -> Iterator[Example]:
    """Yield `pairs` examples (0: the generator's own number) of a split; what is wrong is said before the first."""
    return find(name).examples(name, seed, pairs, split)


def write(name: str, folder: Path, *, seed: int = 1, pairs: dict[str, int] | None = None) -> list[Path]:
    """Write all splits of a generator into `folder`; `pairs` gives other numbers than its own, split by split."""
    generator = find(name)
    unknown = sorted(set(pairs or {}) - set(generator.pairs))
    if unknown:
        raise UserError(f"generator '{name}' has no split '{unknown[0]}'; its splits are {', '.join(generator.pairs)}.")
    return write_corpus(name, generator, Path(folder), seed, pairs or {})
