"""`itda config`: what a recipe may say, what it says, and whether it holds together."""

from __future__ import annotations

from typing import Annotated

import typer

from itda.cli.options import Json
from itda.cli.output import emit, say

app = typer.Typer(add_completion=False, no_args_is_help=True, help="Explain, show and check recipes.")

Recipe = Annotated[str, typer.Argument(help="Path of a recipe, or the name of one that comes with itda.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings in its place.")]


@app.command()
def explain(
    key: Annotated[
        str, typer.Argument(help="A setting or a section, such as train.batch or model; default: all.")
    ] = "",
    json: Json = False,
) -> None:
    """Say what a setting means, its default and what it may be."""
    from itda import config

    if json:
        emit({"settings": config.describe_settings(key)})
    else:
        print(config.explain(key))


@app.command()
def show(recipe: Recipe, overrides: Overrides = None) -> None:
    """Print the whole recipe as TOML, defaults and overrides filled in."""
    from itda import config

    print(config.dumps(config.load(recipe, overrides or ())), end="")


@app.command()
def check(recipe: Recipe, overrides: Overrides = None, json: Json = False) -> None:
    """Check a recipe: exit code 2 where training would refuse it, and notes on settings that have no effect."""
    from itda import config
    from itda.errors import UserError

    file = config.recipe_path(recipe)
    loaded, named = config.assemble(file, overrides or ())
    loaded = config.with_base(loaded, named)
    problems, notices = list(config.problems(loaded)), list(config.notices(loaded))
    if json:
        emit({"recipe": str(file), "problems": problems, "notices": notices})
    for notice in notices:
        say(f"note: {notice}")
    if problems:
        raise UserError(f"{file}: " + "; also: ".join(problems))
    say(f"{file}: fine")
