"""Strings of letters and their reversal: the smallest task on which attention beats a fixed-length context.

Sources of train, valid and test have 3-12 letters; `long` has 13-20, longer than anything trained on. The string
itself decides its split, so that no valid or test string is ever trained on. Letter i is the one and sure source
of target letter n-1-i: the gold alignment is the anti-diagonal.
"""

from __future__ import annotations

from random import Random
from string import ascii_lowercase

from itda.data.synthetic.example import Example, Generator, split_of

LENGTHS = {"train": (3, 12), "valid": (3, 12), "test": (3, 12), "long": (13, 20)}


def reversal(text: str) -> Example:
    """Pair `text` with its reversal."""
    last = len(text) - 1
    return Example(text, text[::-1], frozenset((i, last - i) for i in range(len(text))))


def _draw(random: Random, split: str) -> Example:
    low, high = LENGTHS[split]
    while True:
        text = "".join(ascii_lowercase[random.randrange(26)] for _ in range(random.randint(low, high)))
        if split == "long" or split_of(text) == split:
            return reversal(text)


REVERSE = Generator(
    help="random letter strings of 3-12 letters -> reversed; a split of 13-20 letters; aligned",
    pairs={"train": 20000, "valid": 500, "test": 1000, "long": 1000},
    capacity={"train": 5_000_000, "valid": 500_000, "test": 500_000, "long": 5_000_000},
    draw=_draw,
    about=__doc__ or "",
)
