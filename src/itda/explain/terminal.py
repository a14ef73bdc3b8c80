"""Attention in a terminal: a grid of target x source with shaded cells, as wide as the terminal allows.

Widths are counted in cells of the terminal, in which a Hangul syllable takes two. A console that cannot show block
characters (cp949) or anything but ASCII (the C locale) gets signs that it can show, and U+XXXX for other characters.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from itda.explain.fonts import LONGEST_LABEL
from itda.explain.heatmap import checked

if TYPE_CHECKING:
    from rich.console import Console

# As wide as a syllable, and nearly square; the lowest is the faintest.
SHADES = ("· ", "░░", "▒▒", "▓▓", "██")
ASCII_SHADES = (". ", "::", "++", "**", "##")
STEPS = (0.05, 0.2, 0.4, 0.7)  # a weight below the first is the first shade, from the last on the last
CELL = 2  # cells of the terminal
TALLEST_HEADING = 12


def alignment_text(
    weights: Float[ndarray, "rows columns"],
    src_tokens: Sequence[str],
    tgt_tokens: Sequence[str],
    *,
    width: int = 80,
    encoding: str = "utf-8",
) -> str:
    """Draw alpha (target x source) with characters; sources that do not fit side by side follow below.

    Source tokens stand above their column, written downwards; target tokens before their row.
    """
    weights, src_tokens, tgt_tokens = checked(weights, src_tokens, tgt_tokens)
    shades = SHADES if can_show("".join(SHADES), encoding) else ASCII_SHADES
    names = [_fit(showable(token, encoding), LONGEST_LABEL, encoding) for token in tgt_tokens]
    headings = [showable(token, encoding) for token in src_tokens]
    margin = max(map(cells, names))
    fitting = max(1, (width - margin - 1) // CELL)
    blocks = []
    for start in range(0, len(headings), fitting):
        part = slice(start, start + fitting)
        blocks.append("\n".join(_block(weights[:, part], headings[part], names, margin, shades, encoding)))
    return "\n\n".join(blocks)


def print_alignment(
    console: Console,
    weights: Float[ndarray, "rows columns"],
    src_tokens: Sequence[str],
    tgt_tokens: Sequence[str],
) -> None:
    """Print the grid on a rich console, as wide as it is and with what its encoding can show."""
    text = alignment_text(weights, src_tokens, tgt_tokens, width=console.width, encoding=console.encoding)
    console.print(text, markup=False, highlight=False, emoji=False, soft_wrap=True)


def can_show(text: str, encoding: str) -> bool:
    """Tell whether a console of this encoding can show `text`."""
    try:
        text.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def showable(token: str, encoding: str) -> str:
    """Rewrite a token so that it can be shown: composed, spaces visible, other characters as U+XXXX."""
    space = next(mark for mark in ("␣", "_") if can_show(mark, encoding))
    composed = unicodedata.normalize("NFC", token).replace(" ", space).replace("▁", space)
    return "".join(
        char if char.isprintable() and can_show(char, encoding) else f"U+{ord(char):04X}" for char in composed
    )


def cells(text: str) -> int:
    """Count the cells of a terminal that `text` takes."""
    from rich.cells import cell_len

    return cell_len(text)


def _block(
    weights: Float[ndarray, "tgt part"],
    headings: Sequence[str],
    names: Sequence[str],
    margin: int,
    shades: Sequence[str],
    encoding: str,
) -> list[str]:
    stacks = [_stack(heading, encoding) for heading in headings]
    height = max(map(len, stacks))
    # The headings stand on the grid: shorter ones begin lower.
    levels = zip_longest(*([""] * (height - len(stack)) + stack for stack in stacks))
    lines = [" " * (margin + 1) + "".join(_pad(char, CELL) for char in level) for level in levels]
    for name, row in zip(names, weights, strict=True):
        shaded = "".join(shades[int(np.searchsorted(STEPS, weight, side="right"))] for weight in row)
        lines.append(" " * (margin - cells(name)) + f"{name} {shaded}")
    return [line.rstrip() for line in lines]


def _stack(text: str, encoding: str) -> list[str]:
    """Cut a token into what stands below each other: a character with the marks that are written onto it."""
    stack: list[str] = []
    for char in text:
        if stack and cells(char) == 0:
            stack[-1] += char
        else:
            stack.append(char)
    if len(stack) <= TALLEST_HEADING:
        return stack
    return [*stack[: TALLEST_HEADING - 1], _ellipsis(encoding)]


def _fit(text: str, width: int, encoding: str) -> str:
    if cells(text) <= width:
        return text
    mark = _ellipsis(encoding)
    while cells(text + mark) > width:
        text = text[:-1]
    return text + mark


def _ellipsis(encoding: str) -> str:
    # As wide as one cell in every terminal; an East Asian one shows "…" over two.
    return "…" if can_show("".join(SHADES), encoding) else "~"


def _pad(char: str, width: int) -> str:
    return char + " " * (width - cells(char))
