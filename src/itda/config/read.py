"""From TOML text and key=value overrides to a `Config`, strict about every key, type and bound."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from itda.config.check import validate
from itda.config.fields import FORMAT, Config
from itda.config.find import recipe_path
from itda.config.inherit import Base, inherit, starting_point
from itda.config.keys import TEXTS, Setting, lookup, put, show
from itda.errors import UserError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

# MIGRATIONS[n] turns the tables of format n into those of format n + 1.
MIGRATIONS: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}


def load(
    path: str | Path,
    overrides: Sequence[str] = (),
    *,
    updates: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    base: Base = starting_point,
) -> Config:
    """Load a recipe by path or name, apply `key=value` overrides and a budget, and check the whole.

    `base` names the run folder whose recipe fills in the model and tokenizer that this one leaves open, if any does.
    Raises UserError: no such recipe, bad TOML, unknown keys, wrong values, settings that contradict each other.
    """
    file = recipe_path(path)
    config, named = assemble(file, overrides)
    config = with_budget(config, updates=updates, epochs=epochs, minutes=minutes)
    return validate(with_base(config, named, base), source=str(file))


def assemble(file: Path, overrides: Sequence[str] = ()) -> tuple[Config, set[str]]:
    """Read a recipe and apply overrides; the answer says too which keys somebody has named."""
    tables = tables_of(read_text(file), str(file))
    config = build(Config, tables, "", str(file))
    for assignment in overrides:
        config = override(config, assignment)
    return config, {*keys_in(tables), *(assignment.partition("=")[0].strip() for assignment in overrides)}


def with_base(config: Config, named: Collection[str], base: Base = starting_point) -> Config:
    """Fill in what a recipe leaves open from the recipe of the run that it starts from."""
    folder = base(config)
    if folder is None:
        return config
    file = folder / "config.toml"
    if not file.is_file():
        raise UserError(f"train.start_from is {folder}, which is no run folder (no config.toml); name a finished run")
    return inherit(config, named, parse(read_text(file), source=str(file)), str(folder))


def keys_in(tables: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """Yield the full key of each setting that TOML tables hold."""
    for name, value in tables.items():
        if isinstance(value, Mapping):
            yield from keys_in(value, f"{prefix}{name}.")
        else:
            yield prefix + name


def read_text(file: Path) -> str:
    """Read a recipe's text; Notepad's byte order mark is no part of it."""
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{file}: byte {error.start + 1} is not UTF-8; save the recipe as UTF-8") from error
    except OSError as error:
        raise UserError(f"{file}: cannot be read ({error.strerror}); check its permissions") from error


def parse(text: str, source: str = "recipe") -> Config:
    """Read a `Config` from TOML text; `source` names it in errors. Settings are not checked against each other."""
    return build(Config, tables_of(text, source), "", source)


def tables_of(text: str, source: str) -> dict[str, Any]:
    """Read TOML text into tables of today's format."""
    try:
        tables = tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise UserError(f"{source}{line_of(error, text)}: not valid TOML: {reason(error)}") from error
    return migrate(tables, source)


def line_of(error: Exception, text: str) -> str:
    """Say on which line a TOML error lies, where the parser knows."""
    found = re.search(r"\(at line (\d+)", str(error))
    if found:
        return f", line {found[1]}"
    return f", line {len(text.splitlines())}" if "(at end of document)" in str(error) else ""


def reason(error: Exception) -> str:
    """Give a TOML error's own words without its place."""
    words = re.sub(r" \(at .*\)$", "", str(error))
    return words[:1].lower() + words[1:]


def migrate(tables: dict[str, Any], source: str) -> dict[str, Any]:
    """Bring the tables of an older format up to today's; a recipe without a number is taken as today's."""
    number = tables.get("format", FORMAT)
    if type(number) is not int or number < 1:
        raise UserError(f"{source}: format is {show(number)}; it must be a whole number from 1 to {FORMAT}")
    if number > FORMAT:
        raise UserError(
            f"{source}: format is {number}, and this itda reads up to {FORMAT}; install a newer itda for this recipe"
        )
    for old in range(number, FORMAT):
        tables = {**MIGRATIONS[old](tables), "format": old + 1}
    return tables


def build(section: type, table: Mapping[str, Any], prefix: str, source: str) -> Any:
    """Build a section's dataclass from its table; keys that are not given keep their defaults."""
    values = {}
    for name, value in table.items():
        key = prefix + name
        known = lookup(key, source)
        if isinstance(known, Setting):
            values[name] = known.check(value, source)
        elif isinstance(value, Mapping):
            values[name] = build(known, value, key + ".", source)
        else:
            raise UserError(f"{source}: {key} is {show(value)}; it is a section: write [{key}] and its keys below")
    return section(**values)


def override(config: Config, assignment: str) -> Config:
    """Set one key from text such as `train.batch=32`, read as the type that the key has."""
    key, equals, text = assignment.partition("=")
    key, text = key.strip(), text.strip()
    source = "command line"
    if not equals or not key:
        raise UserError(f"{source}: '{assignment}' is not an override; write key=value, such as train.batch=32")
    known = lookup(key, source)
    if not isinstance(known, Setting):
        first = next(one.name for one in fields(known))
        raise UserError(f"{source}: {key} is a section; set one of its keys, such as {key}.{first}=...")
    if key == "format":
        raise UserError(f"{source}: format is the recipe file's own; it cannot be overridden")
    return put(config, key.split("."), known.check(typed(text, known), source))


def typed(text: str, setting: Setting) -> Any:
    """Read override text as a setting's type; what cannot be read stays text, for `Setting.check` to refuse."""
    if setting.type is bool:
        return {"true": True, "false": False}.get(text, text)
    if setting.type is str:
        return text
    if setting.type == TEXTS:
        return tuple(one.strip() for one in text.split(",") if one.strip())
    try:
        return setting.type(text)
    except ValueError:
        return text


def with_budget(
    config: Config, *, updates: int | None = None, epochs: float | None = None, minutes: float | None = None
) -> Config:
    """Replace the recipe's whole budget by the given one; with nothing given, keep the recipe's."""
    given = {"train.updates": updates, "train.epochs": epochs, "train.minutes": minutes}
    if all(value is None for value in given.values()):
        return config
    for key, value in given.items():
        setting = lookup(key)
        assert isinstance(setting, Setting)
        config = put(config, key.split("."), setting.check(0 if value is None else value, "budget"))
    return config
