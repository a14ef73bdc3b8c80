"""Saving a figure: the same figure gives the same bytes, and a file is there whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itda import durable
from itda.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# No date and no program name in the file.
METADATA: dict[str, dict[str, None]] = {".png": {"Software": None}, ".svg": {"Date": None, "Creator": None}}
DPI = 200
TRIM: dict[str, Any] = {"bbox_inches": "tight", "pad_inches": 0.12}

INK, FAINT, ACCENT, SECOND = "#22303c", "#d5dbe1", "#1f5c99", "#c8652c"


def suffix_of(path: Path) -> str:
    """Return .png or .svg; any other ending is a UserError before anything is drawn."""
    suffix = path.suffix.lower()
    if suffix not in METADATA:
        raise UserError(f"cannot draw into {path.name}; the name must end in {' or '.join(METADATA)}.")
    return suffix


def save(figure: Figure, path: Path) -> Path:
    """Write a figure as PNG or SVG, after the ending of `path`."""
    suffix = suffix_of(path)
    buffer = io.BytesIO()
    figure.savefig(buffer, format=suffix[1:], dpi=DPI, metadata=METADATA[suffix], facecolor="white", **TRIM)
    durable.make_folder(path.parent)
    durable.write_whole(path, buffer.getvalue())
    return path
