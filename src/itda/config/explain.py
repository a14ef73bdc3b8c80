"""What each setting of a recipe means, as text for people and as values for machines."""

from __future__ import annotations

from typing import Any

from itda.config.keys import TEXTS, Setting, all_keys, lookup, show


def chosen(key: str) -> dict[str, type | Setting]:
    """Map the keys that are meant: one, a section with all below it, or all (`""` or "all")."""
    if not key or key == "all":
        return all_keys()
    lookup(key)
    return {one: known for one, known in all_keys().items() if one == key or one.startswith(key + ".")}


def explain(key: str = "") -> str:
    """Describe one setting, a section with all below it, or every setting: default, help, what is allowed."""
    return "\n".join(describe(one, known) for one, known in chosen(key).items()).strip("\n")


def describe(key: str, known: type | Setting) -> str:
    """Describe one key in a few lines."""
    if not isinstance(known, Setting):
        return f"\n[{key}]  {known.__doc__}"
    return f"{key} = {show(known.default)}\n    {known.help}\n    {known.allowed}"


def describe_settings(key: str = "") -> list[dict[str, Any]]:
    """Describe the same settings as values."""
    return [
        {
            "key": one.key,
            "type": "list" if one.type == TEXTS else one.type.__name__,
            "default": one.default,
            "allowed": one.allowed,
            "choices": list(one.choices),
            "low": one.low,
            "high": one.high,
            "help": one.help,
        }
        for one in chosen(key).values()
        if isinstance(one, Setting)
    ]
