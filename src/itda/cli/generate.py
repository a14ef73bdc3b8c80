"""`itda generate`: lines in, outputs out."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from itda.cli.options import Device, Threads, apply_threads, choose_device
from itda.cli.output import emit, say

app = typer.Typer(add_completion=False)


@app.command()
def generate(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    file: Annotated[str, typer.Argument(help="A file of source lines; -: standard input.", metavar="[FILE]")] = "-",
    beam: Annotated[
        int | None, typer.Option("--beam", min=1, help="Beam size; 1: greedy. Default: the recipe's.")
    ] = None,
    n_best: Annotated[int, typer.Option("--n-best", min=1, help="Outputs for each line, best first.")] = 1,
    length_penalty: Annotated[
        float | None, typer.Option("--length-penalty", min=0.0, help="score = log_prob / length ** this.")
    ] = None,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sentences decoded together; changes no result.")] = 64,
    replace_unknown: Annotated[
        bool | None,
        typer.Option("--replace-unknown/--keep-unknown", help="Put the most attended source token in place of <unk>."),
    ] = None,
    threads: Threads = None,
    device: Device = "auto",
    json: Annotated[bool, typer.Option("--json", help="Print JSON Lines: text, score, alignment.")] = False,
) -> None:
    """Write the output for each line of FILE, in order; a blank line gives a blank line."""
    from itda.seq2seq import CHUNK, Seq2Seq

    apply_threads(threads)
    model = Seq2Seq.load(run, choose_device(device))
    settings: dict[str, Any] = {"beam_size": beam, "length_penalty": length_penalty, "replace_unknown": replace_unknown}
    held = 1 if file == "-" and sys.stdin.isatty() else CHUNK  # a person is answered line by line
    found = model.generate_lazily(lines(file), n_best=n_best, batch_size=batch, chunk=held, **settings)
    for number, hypothesis in enumerate(found, start=1):
        if hypothesis.notice:
            say(hypothesis.notice)
        for one in hypothesis.n_best or (hypothesis,):
            if json:
                emit(
                    {
                        "line": number,
                        "text": one.text,
                        "score": one.score,
                        "log_prob": one.log_prob,
                        "tokens": one.tokens,
                        "src_tokens": one.src_tokens,
                        "alignment": one.alignment,
                    }
                )
            else:
                print(f"{one.score:.4f}\t{one.text}" if n_best > 1 and hypothesis.n_best else one.text)
        if held == 1:
            sys.stdout.flush()


def lines(file: str) -> Iterator[str]:
    """Stream the texts of a file or of standard input."""
    from itda.data.lines import read_lines

    for line in read_lines(None if file == "-" else Path(file)):
        if line.cut:
            say(f"line {line.number} is too long to be read whole; only its beginning is used")
        yield line.text
