"""Text in pictures with no empty boxes: a font for each character, or the character's number.

Hangul and the other scripts of East Asia come from a font that is installed with itda, so that a picture looks the
same on a server without fonts. What it lacks is looked for in matplotlib's own font and then in those of the system.
A character that none of them has is written as its number (U+1F600), which can be read and looked up.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from itda.errors import UserError

# (package, file within it): only read, never imported, because importing one of these changes matplotlib's settings.
CARRIERS = (
    ("noto_cjk_sans_jp_regular", "NotoSansCJKjp-Regular.otf"),
    ("koreanize_matplotlib", "fonts/NanumGothic.ttf"),
)
LONGEST_LABEL = 16  # characters of a token on an axis; the terminal cuts there too
OWN = "DejaVu Sans"  # always there: it comes with matplotlib
# Fonts that "have" every character by drawing a box for it.
BOXES = ("Last Resort", "LastResort", "Unicode BMP Fallback", "Adobe Blank")


@contextmanager
def drawing(*texts: str) -> Iterator[None]:
    """Let matplotlib draw `texts` (and what is alike) within this block; its settings are as before afterwards."""
    import matplotlib

    settings: dict[Any, Any] = {
        "font.family": list(families("".join(texts))),
        "svg.fonttype": "path",  # outlines, so that an SVG needs no font where it is looked at
        "svg.hashsalt": "itda",  # the same picture gives the same bytes
        "axes.unicode_minus": False,
        "text.parse_math": False,  # "$" is a character of the text
    }
    with matplotlib.rc_context(settings):
        yield


def families(text: str) -> tuple[str, ...]:
    """Name the fonts to try for each character of `text`, first choice first."""
    names = list(_first_choices())
    missing = {char for char in text if not any(_has(_path(name), char) for name in names)}
    for name, path in _system_fonts() if missing else ():
        found = {char for char in missing if _has(path, char)}
        if found and name not in names:
            names.append(name)
            missing -= found
        if not missing:
            break
    return tuple(names)


def readable(text: str) -> str:
    """Rewrite `text` so that every character of it can be drawn: U+XXXX for one that no font has.

    Composed first, because few fonts place conjoining jamo; line breaks, odd spaces and the like are named as well.
    """
    composed = unicodedata.normalize("NFC", text)
    paths = [_path(name) for name in families(composed)]
    return "".join(char if _drawable(char, paths) else f"U+{ord(char):04X}" for char in composed)


def labels(tokens: Iterable[str]) -> list[str]:
    """Turn tokens into axis labels: readable, not too long, spaces (sentencepiece writes ▁) made visible."""
    found = [readable(token.replace(" ", "␣").replace("▁", "␣")) for token in tokens]
    return [label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…" for label in found]


def require_hangul() -> None:
    """Raise a UserError that says what to install, where no font on this machine has Hangul."""
    if readable("한글") != "한글":
        raise UserError("no font with Hangul is installed; do: pip install noto-cjk-sans-jp-regular")


def _drawable(char: str, paths: list[str]) -> bool:
    # Not printable: controls, unassigned characters, and every space but the plain one.
    return char.isprintable() and any(_has(path, char) for path in paths)


@cache
def _first_choices() -> tuple[str, ...]:
    """The families of the carried fonts, made known to matplotlib, and matplotlib's own."""
    from matplotlib import font_manager

    names = []
    for package, file in CARRIERS:
        spec = find_spec(package)
        for folder in (spec.submodule_search_locations or []) if spec else []:
            path = Path(folder) / file
            if path.is_file():
                font_manager.fontManager.addfont(str(path))
                names.append(font_manager.FontProperties(fname=str(path)).get_name())
    return (*names, OWN)


@cache
def _path(family: str) -> str:
    from matplotlib import font_manager

    # What matplotlib itself will take for this name, so that we look into the font that is then drawn with.
    return str(font_manager.findfont(font_manager.FontProperties(family=[family])))


@cache
def _system_fonts() -> tuple[tuple[str, str], ...]:
    """List the upright regular fonts that matplotlib has found; for the others it would complain when asked."""
    from matplotlib import font_manager

    regular = {
        entry.name: entry.fname
        for entry in font_manager.fontManager.ttflist
        if entry.style == "normal" and entry.weight in (400, "normal", "regular") and not entry.name.startswith(BOXES)
    }
    return tuple(sorted(regular.items()))


@cache
def _charmap(path: str) -> frozenset[int]:
    from matplotlib.ft2font import FT2Font

    try:
        return frozenset(FT2Font(path).get_charmap())
    except (OSError, RuntimeError):  # a file that went away, or that FreeType does not read
        return frozenset()


def _has(path: str, char: str) -> bool:
    return ord(char) in _charmap(path)
