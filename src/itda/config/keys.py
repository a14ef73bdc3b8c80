"""The keys of a recipe, read off the dataclasses: the one place that reflects on them."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, get_type_hints

from itda.config.fields import Config
from itda.errors import UserError

TEXTS = tuple[str, ...]  # the type of a list of texts; frozen, as all settings are
TYPE_WORDS: dict[Any, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    TEXTS: "a list of texts",
}


@dataclass(frozen=True)
class Setting:
    """One field: where it stands, of what type it is and what it may be."""

    key: str
    type: Any  # a class, or TEXTS
    default: Any
    help: str
    choices: tuple[str, ...]
    low: float | None
    high: float | None

    @property
    def allowed(self) -> str:
        """Say in words what the value may be."""
        if self.choices:
            return "one of " + ", ".join(self.choices)
        word = TYPE_WORDS[self.type]
        if self.low is not None and self.high is not None:
            return f"{word} from {bound(self.low)} to {bound(self.high)}"
        if self.low is not None:
            return f"{word}, {bound(self.low)} or more"
        return word

    def check(self, value: Any, source: str) -> Any:
        """Return `value` as this setting's type, or raise a UserError that says what is allowed."""
        if self.type is float and type(value) is int:
            value = as_float(value)
        if self.type == TEXTS:
            return self.check_texts(value, source)
        # `type(...) is`, since a bool would pass for an int
        if type(value) is not self.type or not self.holds(value):
            raise UserError(f"{source}: {self.key} is {show(value)}; it must be {self.allowed} ({self.help})")
        return value

    def check_texts(self, value: Any, source: str) -> tuple[str, ...]:
        """Return a list of texts as a tuple, or raise a UserError."""
        if not isinstance(value, (list, tuple)) or not all(isinstance(one, str) and one.isprintable() for one in value):
            raise UserError(f"{source}: {self.key} is {show(value)}; it must be {self.allowed} ({self.help})")
        return tuple(value)

    def holds(self, value: Any) -> bool:
        """Tell whether a value of the right type is among the choices or within the bounds."""
        if self.choices:
            return value in self.choices
        if self.type is str:
            return value.isprintable()
        if self.type is float and value - value != 0:  # nan and infinities
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def bound(value: float) -> str:
    """Write a bound, a whole number with all its digits."""
    return str(int(value)) if value == int(value) else f"{value:g}"


def as_float(value: int) -> float:
    """Turn a whole number into a float; one that is too large becomes an infinity, which no setting holds."""
    try:
        return float(value)
    except OverflowError:
        return float("inf") if value > 0 else float("-inf")


def show(value: Any) -> str:
    """Write a value the way it stands in a recipe."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "a section"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(show, value)) + "]" if all(isinstance(one, str) for one in value) else "a list"
    return str(value)


def walk(section: type, prefix: str = "") -> Iterator[tuple[str, type | Setting]]:
    """Yield each key below a section in order: subsections with their class, settings as `Setting`."""
    types = get_type_hints(section)
    for one in fields(section):
        key, kind = prefix + one.name, types[one.name]
        if kind in TYPE_WORDS:
            about = one.metadata
            yield key, Setting(key, kind, one.default, about["help"], about["choices"], about["low"], about["high"])
        else:
            yield key, kind
            yield from walk(kind, key + ".")


@functools.cache
def all_keys() -> dict[str, type | Setting]:
    """Map every full key of a recipe to its section class or its setting."""
    return dict(walk(Config))


def lookup(key: str, source: str = "") -> type | Setting:
    """Find a key's section or setting; an unknown one is a UserError that names the nearest."""
    known = all_keys()
    if key in known:
        return known[key]
    raise UserError(f"{source + ': ' if source else ''}unknown key '{key}'; {suggestion(key)}")


def suggestion(key: str) -> str:
    """Say which key was probably meant: the nearest one, or the same name in another section."""
    known = list(all_keys())
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    last = key.rpartition(".")[2]
    near = near or [one for one in known if one.rpartition(".")[2] == last]
    near = near or difflib.get_close_matches(key, known, n=1)
    if near:
        return f"did you mean {' or '.join(repr(one) for one in near[:3])}?"
    return "`itda config explain` lists all keys"


def put(section: Any, path: Sequence[str], value: Any) -> Any:
    """Return a copy of a section in which the key at `path` has a new value."""
    head, *rest = path
    return replace(section, **{head: put(getattr(section, head), rest, value) if rest else value})
