"""`itda shortlist`: which words may a sentence be written with?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from itda.cli.options import Json
from itda.cli.output import emit, say

app = typer.Typer(add_completion=False)


@app.command()
def shortlist(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    frequent: Annotated[
        int, typer.Option("--frequent", min=1, help="Most frequent target tokens, offered to each sentence.")
    ] = 1000,
    per_token: Annotated[
        int, typer.Option("--per-token", min=1, help="Likely translations kept of each source token.")
    ] = 100,
    per_sentence: Annotated[
        int, typer.Option("--per-sentence", min=1, help="Likely translations offered to a sentence.")
    ] = 200,
    pairs: Annotated[
        int, typer.Option("--pairs", min=1, help="Training pairs to learn from, spread over the corpus.")
    ] = 200_000,
    json: Json = False,
) -> None:
    """Learn a vocabulary shortlist from the run's training pairs, for itda generate RUN --shortlist on."""
    from itda.training.shortlist import make_shortlist

    lexicon = make_shortlist(run, frequent=frequent, per_token=per_token, per_sentence=per_sentence, pairs=pairs)
    answer = {"run": run, "frequent": len(lexicon.frequent), "translations": len(lexicon.targets)}
    if json:
        emit(answer)
    else:
        say(f"{run}: {answer['frequent']} frequent tokens and {answer['translations']} translations")
