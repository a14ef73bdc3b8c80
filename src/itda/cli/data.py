"""`itda data`: make generated corpora, and look at any corpus."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from itda.cli.options import Json
from itda.cli.output import console, emit, say

if TYPE_CHECKING:
    from itda.data.look import Look

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Make generated corpora, and look at any corpus.")


@app.command()
def make(
    name: Annotated[str, typer.Argument(help="A generator, such as reverse or dates.")],
    out: Annotated[Path | None, typer.Option("--out", help="Folder to write; default: data/NAME.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the generator.")] = 1,
    pairs: Annotated[int, typer.Option("--pairs", min=0, help="Pairs of training; 0: the generator's default.")] = 0,
    json: Json = False,
) -> None:
    """Write a generated corpus: one file for each split, with its gold alignment."""
    from itda.data.synthetic import write

    folder = out or Path("data") / name
    files = write(name, folder, seed=seed, pairs={"train": pairs} if pairs else None)
    if json:
        emit({"corpus": name, "folder": folder, "files": files})
    else:
        say("\n".join(f"wrote {file}" for file in files))


@app.command()
def look(
    pairs: Annotated[
        str, typer.Argument(help="FILE.tsv[.gz], SRC,TGT, NAME/SPLIT under ITDA_DATA, make:NAME/SPLIT, or -")
    ],
    swap: Annotated[bool, typer.Option("--swap", help="Read the second column as source.")] = False,
    json: Json = False,
) -> None:
    """Say how many pairs a corpus has, which lines are skipped and why, and how long its sides are."""
    from itda.data import look as looking
    from itda.data.catalog import locate

    found = looking.look(locate(pairs), swap=swap)
    if json:
        emit(found.as_json())
    else:
        show(found)


def show(found: Look) -> None:
    """Print what was found, for people."""
    from rich.table import Table

    say(f"{found.files}: {found.report.pairs} pairs in {found.report.lines} lines")
    for message in found.report.messages():
        say(f"  {message}")
    table = Table("", "", "shortest", "median", "mean", "95 %", "longest")
    for side, units in found.lengths.items():
        for unit, lengths in units.items():
            table.add_row(side, unit, *(f"{value:.4g}" for value in lengths.summary().values()))
    console().print(table)
    for pair in found.examples:
        say(f"line {pair.number}\n  {pair.src}\n  {pair.tgt}")
