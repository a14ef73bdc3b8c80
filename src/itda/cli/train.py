"""`itda train`: a recipe to a run folder."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any

import typer

from itda.cli.options import Device, Json, Seed, Threads, apply_threads, choose_device
from itda.cli.output import console, emit, say

if TYPE_CHECKING:
    from itda.training.session import Report, Session

app = typer.Typer(add_completion=False)

SCALARS = ("loss", "nll", "learning_rate")


@app.command(context_settings={"ignore_unknown_options": False})
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe: a .toml file, or the name of one that itda ships.")],
    settings: Annotated[
        list[str] | None, typer.Argument(help="Overrides, such as train.batch=32.", metavar="[KEY=VALUE]...")
    ] = None,
    run: Annotated[Path | None, typer.Option("--run", help="The run folder; default: runs/<recipe name>.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on where the run folder stands.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew in place of the run that is there.")
    ] = False,
    start: Annotated[
        Path | None,
        typer.Option("--from", help="Start from the weights and the vocabulary of this run; sets train.start_from."),
    ] = None,
    seeds: Annotated[
        str | None,
        typer.Option("--seeds", help="Train with several seeds, 3 or 1,2,5, into RUN/seed-1 ..., and aggregate."),
    ] = None,
    updates: Annotated[
        int | None, typer.Option("--updates", min=1, help="Budget in updates, in place of the recipe's.")
    ] = None,
    epochs: Annotated[float | None, typer.Option("--epochs", min=0.0, help="Budget in epochs.")] = None,
    minutes: Annotated[
        float | None, typer.Option("--minutes", min=0.0, help="Budget in minutes of wall clock.")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write TensorBoard files into the run folder.")
    ] = False,
    threads: Threads = None,
    device: Device = "auto",
    seed: Seed = None,
    json: Json = False,
) -> None:
    """Train a model. Ctrl-C saves, and --resume goes on as if nothing had happened."""
    from itda import config as recipes
    from itda.errors import UserError
    from itda.training.entry import recipe_for
    from itda.training.session import open_session

    if resume and overwrite:
        raise UserError("--resume goes on with a run and --overwrite removes it; give one of the two.")
    if seeds is not None and seed is not None:
        raise UserError("--seed is for one run and --seeds for several; give one of the two.")
    apply_threads(threads)
    overrides = [*(settings or []), *([f"train.seed={seed}"] if seed is not None else [])]
    overrides += [f"train.start_from={start}"] if start is not None else []
    config, path = recipe_for(
        recipe, overrides, run=run, updates=updates, epochs=epochs, minutes=minutes, resume=resume
    )
    for notice in recipes.notices(config):
        say(notice)
    board = summary_writer() if tensorboard else None
    given = {"--updates": updates, "--epochs": epochs, "--minutes": minutes, "--threads": threads, "--seeds": seeds}
    words = [str(word) for pair in given.items() if pair[1] is not None for word in pair]
    words += [*(["--tensorboard"] if tensorboard else []), *(["--device", device] if device != "auto" else [])]
    again = shlex.join(["itda", "train", recipe, *overrides, *words, "--run", str(path), "--resume"])
    if seeds is not None:
        from itda.cli.seeds import train_all

        train_all(config, path, seeds, again, follow_with(board), choose_device(device), resume, overwrite, json)
        return
    session = open_session(config, path, resume=resume, overwrite=overwrite, device=choose_device(device))
    if not follow_with(board)(session):
        say(f"saved at update {session.standing.step}; go on with: {again}")
        raise typer.Exit(130)
    facts = session.run.facts
    if json:
        keys = ("update", "minutes", "best", "final", "stopped")
        emit({"run": path, "updates": facts["update"], **{key: facts[key] for key in keys}})
    else:
        say(f"{facts['stopped']}; the run is in {path}")


def follow_with(board: Any) -> Callable[[Session], bool]:
    """Return what shows a session to its end, and writes TensorBoard files beside it where `board` is its writer."""

    def show(session: Session) -> bool:
        return follow(session, [scalars(board(str(session.run.path / "tensorboard")))] if board else [])

    return show


def follow(session: Session, watchers: list[Any]) -> bool:
    """Show a session to its end; False where Ctrl-C ended it early (after saving)."""
    from itda.training.entry import complete, notices_of
    from itda.training.report import Display

    for notice in notices_of(session):
        say(notice)
    interruption = Interruption()
    session.interrupted = lambda: interruption.wanted
    with interruption, Display(console(), session.config.train.report_every) as display:

        def show(report: Report) -> None:
            display(report)
            for watcher in watchers:
                watcher(report)

        complete(session, show)
    return bool(session.standing.stopped)


class Interruption:
    """Remembers the first Ctrl-C, so that the update in progress ends well; a second one ends the process at once."""

    wanted = False

    def __enter__(self) -> None:
        """Catch Ctrl-C."""
        self.before = signal.signal(signal.SIGINT, self.catch)

    def __exit__(self, *_: object) -> None:
        """Give Ctrl-C back."""
        signal.signal(signal.SIGINT, self.before)

    def catch(self, number: int, frame: FrameType | None) -> None:
        """Note it, and let the next one through."""
        self.wanted = True
        say("stopping after this update; Ctrl-C again stops at once, without saving")
        signal.signal(signal.SIGINT, self.before)


def summary_writer() -> Any:
    """Return TensorBoard's class; UserError where it is not installed."""
    from itda.errors import UserError

    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "--tensorboard needs the package tensorboard; install it: pip install 'itda[tensorboard]'"
        ) from None
    return SummaryWriter


def scalars(board: Any) -> Any:
    """Return a function that writes each report as TensorBoard scalars."""
    from itda.training.loop import ValidationReport

    def write(report: Report) -> None:
        if isinstance(report, ValidationReport):
            kind, values = "valid", report.metrics
        else:
            kind, values = "train", {name: getattr(report, name) for name in SCALARS} | report.parts
        for name, value in values.items():
            board.add_scalar(f"{kind}/{name}", value, report.step)
        board.flush()

    return write
