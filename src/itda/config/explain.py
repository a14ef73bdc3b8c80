"""What each setting of a recipe means, as text for people."""

from __future__ import annotations

from itda.config.keys import Setting, all_keys, lookup, show


def explain(key: str = "") -> str:
    """Describe one setting, a section with all below it, or every setting: type, default, allowed, help."""
    if not key or key == "all":
        chosen = list(all_keys())
    else:
        lookup(key)
        chosen = [one for one in all_keys() if one == key or one.startswith(key + ".")]
    return "\n".join(describe(one) for one in chosen).strip("\n")


def describe(key: str) -> str:
    """Describe one key in a line or two."""
    known = all_keys()[key]
    if not isinstance(known, Setting):
        return f"\n[{key}]  {known.__doc__}"
    return f"{key} = {show(known.default)}\n    {known.help}\n    {known.allowed}"
