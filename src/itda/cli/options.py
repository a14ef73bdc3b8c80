"""Options that several verbs share, and what they set."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from itda.errors import UserError

if TYPE_CHECKING:
    import torch

Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads; default: what PyTorch chooses.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda, cuda:1, mps; auto: cuda where there is one.")]
Seed = Annotated[int | None, typer.Option("--seed", min=0, help="Seed; default: the recipe's.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]


def apply_threads(threads: int | None) -> None:
    """Let PyTorch use this many CPU threads."""
    if threads is not None:
        import torch

        torch.set_num_threads(threads)


def choose_device(name: str) -> torch.device:
    """Find the device called `name`; UserError where this machine has no such one."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        allowed = "auto, cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise UserError(f"--device is {name}, which PyTorch cannot use here; it may be {allowed}") from error
    return device
