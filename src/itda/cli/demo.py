"""`itda demo`: from nothing to a trained model with attention, in two minutes and without a download."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from itda.cli.options import Device, Json, Seed, apply_threads, choose_device
from itda.cli.output import console, emit, say

if TYPE_CHECKING:
    from itda.demo import DemoResult

app = typer.Typer(add_completion=False)


@app.command()
def demo(
    run: Annotated[
        Path, typer.Option("--run", help="The run folder; an older run of the demo there is replaced.")
    ] = Path("runs/demo"),
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in place of whatever run is there.")
    ] = False,
    updates: Annotated[
        int | None, typer.Option("--updates", min=1, help="Fewer updates, for a quicker and poorer model.")
    ] = None,
    threads: Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: 1.")] = None,
    device: Device = "cpu",
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Learn to read dates in Korean and English, measure it on dates never seen, and see where the model looks."""
    import time

    from itda import config as recipes
    from itda.cli.train import follow
    from itda.demo import RECIPE, check_place, measure
    from itda.seq2seq import Seq2Seq
    from itda.training.session import open_session

    # So small a model gains little by a second thread, and waits for it where a core is busy.
    apply_threads(threads or 1)
    began = time.monotonic()
    overrides = [f"train.seed={seed}"] if seed is not None else []
    config = recipes.load(RECIPE, overrides, updates=updates)
    replaces = overwrite or check_place(run, config)
    say(f"training an encoder-decoder with attention on {config.about.split(':')[1].strip()}")
    session = open_session(config, run, overwrite=replaces, device=choose_device(device))
    if not follow(session, []):
        say(f"stopped at update {session.standing.step}; begin again with: itda demo")
        raise typer.Exit(130)
    seconds = time.monotonic() - began
    result = measure(Seq2Seq.load(run, choose_device(device)), run)
    if json:
        emit({**result.to_json(), "train_seconds": seconds, "run": run})
    show(result, run, seconds)


def show(result: DemoResult, run: Path, seconds: float) -> None:
    """Print what was measured, a few examples, one alignment, and what to try next."""
    from itda.explain.terminal import print_alignment
    from itda.seq2seq import EOS_NAME

    exact, aligned = result.exact_match, result.alignment
    say(f"\ntrained in {seconds:.0f} s; measured on {aligned.sentences} dates that training has not seen in any form")
    say(f"  exact match           {exact.score or 0:.1%}  [{exact.low or 0:.1%}, {exact.high or 0:.1%}]")
    baselines = f"(diagonal {aligned.diagonal:.3f}, uniform {aligned.uniform:.3f})"
    say(f"  alignment error rate  {aligned.error_rate:.3f}  [{aligned.low:.3f}, {aligned.high:.3f}]   {baselines}\n")
    for text, hypothesis in result.examples:
        say(f"  {text}  ->  {hypothesis.text}")
    text, first = result.examples[0]
    assert first.attention is not None
    say(f"\nwhere the model looked (rows: output; columns: {text}; darker: more)")
    print_alignment(console(), first.attention, [*first.src_tokens, EOS_NAME], [*first.tokens, EOS_NAME])
    say(f"\nwrote {result.picture} and {run / 'learning-curve.png'}; the whole run is in {run}\n\nnext:")
    say(f'  itda explain {run} "the 5th of March 2024" --text    where it looks, on a date of yours')
    say(f'  echo "2031년 12월 25일" | itda generate {run}         use it')
    say("  itda train reverse                                   another task")
    say("  itda config explain                                  what a recipe may hold")
