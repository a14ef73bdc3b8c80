"""`itda runs`: list run folders and compare them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itda.cli.options import Json
from itda.cli.output import console, emit, say

if TYPE_CHECKING:
    from itda.overview import RunSummary

app = typer.Typer(add_completion=False)


@app.command()
def runs(
    folder: Annotated[Path, typer.Argument(help="A folder of runs, or one run.", metavar="[DIR]")] = Path("runs"),
    json: Json = False,
) -> None:
    """List the runs in a folder: how each ended, its best validation, and in which settings they differ."""
    from itda.errors import UserError
    from itda.overview import differences, list_runs

    if not folder.is_dir():
        raise UserError(f"no folder {folder}; name the folder that holds your runs, or train one: itda demo")
    found = list_runs(folder)
    if json:
        emit({"runs": [run.as_json() for run in found], "differences": differences(found)})
    elif found:
        show(found, differences(found))
    else:
        say(f"no runs in {folder}; itda demo trains one")


def show(found: list[RunSummary], differing: dict[str, list[Any]]) -> None:
    """Print the runs as a table, then the settings that differ, a column for each run."""
    from rich.table import Column, Table
    from rich.text import Text

    table = Table(Column("run", overflow="fold"), "status", "update", "minutes", "best")
    for run in found:
        facts = run.as_json()
        best = run.problem or best_text(facts["best"])
        row = (run.path.name, facts["status"], facts["update"], facts["minutes"], best)
        table.add_row(*(Text(cell(value)) for value in row))
    console().print(table)
    if differing:
        show_settings([run.path.name for run in found], [[key, *map(cell, differing[key])] for key in differing])


def show_settings(names: list[str], rows: list[list[str]]) -> None:
    """Print settings that differ as a table, or as lines where a table would have to cut names and values."""
    from rich.cells import cell_len
    from rich.table import Table
    from rich.text import Text

    # Beside the text, a table spends 3 cells on each column and 1 on its edge.
    widths = [max(map(cell_len, column)) + 3 for column in zip(["setting", *names], *rows, strict=True)]
    if sum(widths) + 1 > console().width:
        for key, *values in rows:
            say(key + "".join(f"\n  {name}: {value}" for name, value in zip(names, values, strict=True)))
        return
    table = Table("setting", *names)
    for row in rows:
        table.add_row(*map(Text, row))
    console().print(table)


def best_text(best: Any) -> str:
    """Write the best validation in a few words."""
    if not isinstance(best, dict) or best.get("value") is None:
        return "-"
    if "seeds" in best:
        return f"{best['metric']} {cell(best['value'])}, std {cell(best['std'])} over {best['seeds']} seeds"
    return f"{best['metric']} {cell(best['value'])} at update {best['update']}"


def cell(value: Any) -> str:
    """Write a value for a table."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
