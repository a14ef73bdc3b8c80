"""Write cli.md from the command line itself; a test compares the two."""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from itda.cli.main import VERBS, app

FILE = Path(__file__).with_name("cli.md")
HEAD = """# The command line

Made by `docs/reference/make_cli.py` from the help texts (`itda VERB --help`).

Exit codes: 0 done; 1 a failure of ours or of the machine; 2 the user's input; 130 ended by Ctrl-C. An error is one
line on standard error; `--debug`, anywhere on the line, shows its traceback. Data goes to standard output, text for
people to standard error.
"""


def commands() -> Iterator[tuple[str, Any]]:
    """Yield the name of each command, such as "data look", and the command."""
    for verb, module in VERBS.items():
        command = typer.main.get_command(importlib.import_module(module).app)
        below = getattr(command, "commands", {})
        yield from ((f"{verb} {name}", one) for name, one in below.items()) if below else [(verb, command)]


def page() -> str:
    """Write the whole page."""
    whole = typer.main.get_command(app)
    options = [row for row in map(option_row, whole.params) if row]
    parts = [HEAD, "## itda", *table("option", options), *(section(*one) for one in commands())]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(parts)).rstrip("\n") + "\n"


def section(name: str, command: Any) -> str:
    """Write what there is to say of one command."""
    arguments = [one for one in command.params if not is_option(one)]
    usage = " ".join(["itda", name, *map(argument_name, arguments), "[OPTIONS]"])
    rows = [f"| `{argument_name(one)}` | {cell(one.help)} | {default(one)} |" for one in arguments]
    options = [row for row in map(option_row, command.params) if row]
    return "\n".join(
        ["", f"## itda {name}", command.help, "```", usage, "```", *table("argument", rows), *table("option", options)]
    )


def table(title: str, rows: list[str]) -> list[str]:
    """Put rows below a head; nothing where there are none."""
    return [f"| {title} | what it does | default |", "|---|---|---|", *rows, ""] if rows else []


def is_option(parameter: Any) -> bool:
    """Say whether a parameter is an option, not an argument."""
    return parameter.opts[0].startswith("-")


def argument_name(argument: Any) -> str:
    """Name an argument as a usage line does."""
    return argument.metavar or argument.name.upper()


def option_row(option: Any) -> str:
    """Describe an option in a row of a table; an argument gives nothing."""
    if not is_option(option):
        return ""
    names = ", ".join(f"`{name}`" for name in [*option.opts, *option.secondary_opts])
    return f"| {names} | {cell(option.help)} | {default(option)} |"


def default(parameter: Any) -> str:
    """Write a default where there is one to speak of."""
    return f"`{parameter.default}`" if parameter.default not in (None, False, "", []) else ""


def cell(text: str | None) -> str:
    """Bring a text into a cell of a table."""
    return re.sub(r"(<[^>]+>)", r"`\1`", " ".join((text or "").split()).replace("|", "\\|"))


if __name__ == "__main__":
    FILE.write_text(page(), encoding="utf-8", newline="\n")
    print(f"wrote {FILE.name}")
