"""`itda score`: how likely is each target, given its source?"""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated

import typer

from itda.cli.options import Device, Threads, To, apply_threads, choose_device
from itda.cli.output import emit, say

app = typer.Typer(add_completion=False)

CHUNK = 2048  # pairs held at a time


@app.command()
def score(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    pairs: Annotated[
        str, typer.Argument(help="FILE.tsv[.gz], SRC,TGT, NAME/SPLIT under ITDA_DATA, make:NAME/SPLIT, or -")
    ],
    to: To = "",
    threads: Threads = None,
    device: Device = "auto",
    json: Annotated[
        bool, typer.Option("--json", help="Print JSON Lines: line, log_prob, tokens, token_log_probs.")
    ] = False,
) -> None:
    """Print log p(target | source) of each pair under teacher forcing: line n answers line n, empty if skipped."""
    from itda.data.catalog import locate
    from itda.data.corpus import ReadReport, read_pairs
    from itda.seq2seq import Seq2Seq

    apply_threads(threads)
    model = Seq2Seq.load(run, choose_device(device))
    report = ReadReport()
    stream = read_pairs(locate(pairs), swap=model.config.data.swap, report=report)
    printed = 0
    while chunk := list(itertools.islice(stream, CHUNK)):
        found = model.score(((pair.src, pair.tgt) for pair in chunk), target_language=to)
        for pair, one in zip(chunk, found, strict=True):
            if json:
                emit(
                    {
                        "line": pair.number,
                        "log_prob": one.log_prob,
                        "tokens": one.tokens,
                        "token_log_probs": one.token_log_probs,
                    }
                )
            else:
                print("\n" * (pair.number - printed - 1) + f"{one.log_prob:.4f}")
                printed = pair.number
    if not json:
        print("\n" * (report.lines - printed), end="")
    for message in report.messages():
        say(f"{pairs}: {message}")
