"""`itda explain`: where did the model look?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from itda.cli.options import Device, Json, Threads, To, apply_threads, choose_device
from itda.cli.output import console, emit, say

app = typer.Typer(add_completion=False)


@app.command()
def explain(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    text: Annotated[str, typer.Argument(help="The source text.")],
    target: Annotated[
        str | None, typer.Option("--target", help="Force this output, in place of the model's own.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", help="The picture: .png or .svg.")] = Path("attention.png"),
    terminal: Annotated[bool, typer.Option("--text", help="Show it in the terminal, in place of a picture.")] = False,
    beam: Annotated[int | None, typer.Option("--beam", min=1, help="Beam size; default: the recipe's.")] = None,
    to: To = "",
    threads: Threads = None,
    device: Device = "auto",
    json: Json = False,
) -> None:
    """Draw alpha: for each output token, how much the model looked at each source token."""
    from itda.errors import UserError
    from itda.explain.heatmap import heatmap
    from itda.explain.terminal import print_alignment
    from itda.seq2seq import EOS_NAME, Seq2Seq

    apply_threads(threads)
    if not text.strip():
        raise UserError("the text is blank; give at least one word.")
    model = Seq2Seq.load(run, choose_device(device))
    if target is None:
        found = next(model.generate_lazily([text], beam_size=beam, target_language=to))
    else:
        found = model.forced(text, target, target_language=to)
    if found.notice:
        say(found.notice)
    if found.attention is None:
        raise UserError(
            f"{run} has no attention (model.decoder.kind = {model.config.model.decoder.kind}): nothing to draw; "
            "explain a run whose decoder has one."
        )
    names = model.token_names(text, target, found, to)
    src_tokens, tgt_tokens = ([*side, EOS_NAME] for side in names)
    if terminal:
        say(found.text)
        print_alignment(console(), found.attention, src_tokens, tgt_tokens)
    else:
        heatmap(found.attention, src_tokens, tgt_tokens, out)
        say(f"{found.text}\nwrote {out}")
    if json:
        picture = None if terminal else out
        emit(
            {
                "text": found.text,
                "score": found.score,
                "src_tokens": src_tokens,
                "tokens": tgt_tokens,
                "attention": found.attention.tolist(),
                "alignment": found.alignment,
                "picture": picture,
            }
        )
