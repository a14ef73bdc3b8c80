"""From a `Config` to TOML text that reads back as the same `Config`."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from typing import Any

from itda.config.fields import Config


def dumps(config: Config) -> str:
    """Write a whole recipe as TOML, every field of it, sections after the plain keys."""
    return "\n".join(section_lines(config, "")).lstrip("\n") + "\n"


def section_lines(section: Any, name: str) -> list[str]:
    """Write one section's keys, then its subsections."""
    values = {one.name: getattr(section, one.name) for one in fields(section)}
    plain = {key: value for key, value in values.items() if not is_dataclass(value)}
    lines = ["", f"[{name}]"] if name and plain else []
    lines += [f"{key} = {literal(value)}" for key, value in plain.items()]
    for key, value in values.items():
        if is_dataclass(value):
            lines += section_lines(value, f"{name}.{key}" if name else key)
    return lines


def literal(value: str | bool | int | float | tuple[str, ...]) -> str:
    """Write one value; JSON's escapes are TOML's too, for the printable text that settings hold."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return f"[{', '.join(map(literal, value))}]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
