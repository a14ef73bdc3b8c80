"""Where output goes: human text to standard error, data to standard output."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


@functools.cache
def console() -> Console:
    """Return the one console for human text, on standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False)


def say(text: str) -> None:
    """Write human text to standard error as it is: no markup, no wrapping."""
    console().print(text, markup=False, soft_wrap=True)


def emit(value: Any) -> None:
    """Write one JSON value on a line of its own to standard output."""
    print(json.dumps(value, ensure_ascii=False, allow_nan=False, default=plain))


def plain(value: Any) -> Any:
    """Turn what JSON does not know into what it knows."""
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "item"):  # numbers of numpy and torch
        return value.item()
    raise TypeError(f"{type(value).__name__} is not for JSON")
