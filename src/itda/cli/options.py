"""Options that several verbs share, and what they set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    import torch

MOST_THREADS = 1024
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: what PyTorch chooses.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps; auto: cuda where there is one.")]
To = Annotated[str, typer.Option("--to", help="Target language of a many-to-many model (data.tags), such as de.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed; default: the recipe's.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def apply_threads(threads: int | None) -> None:
    """Let PyTorch use this many CPU threads."""
    if threads is not None:
        import torch

        from itda.errors import UserError

        if threads > MOST_THREADS:
            raise UserError(f"--threads is {threads}; it must be from 1 to {MOST_THREADS}")
        torch.set_num_threads(threads)


def choose_device(name: str) -> torch.device:
    """Find the device called `name`; UserError where this machine has no such one."""
    from itda.errors import UserError
    from itda.seq2seq import find_device

    try:
        return find_device(name)
    except UserError as error:
        raise UserError(f"--{error}") from error
