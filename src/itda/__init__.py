"""itda (잇다): sequence-to-sequence models. The public names; each is loaded when it is first used."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itda.decode.sampling import Sampling as Sampling
    from itda.errors import ItdaError as ItdaError
    from itda.errors import UserError as UserError
    from itda.seq2seq import Hypothesis as Hypothesis
    from itda.seq2seq import Seq2Seq as Seq2Seq
    from itda.training.entry import fit as fit
    from itda.training.entry import load as load
    from itda.training.entry import train as train
    from itda.training.seeds import train_seeds as train_seeds


PLACES = {
    "train": "itda.training.entry",
    "train_seeds": "itda.training.seeds",
    "fit": "itda.training.entry",
    "load": "itda.training.entry",
    "Seq2Seq": "itda.seq2seq",
    "Hypothesis": "itda.seq2seq",
    "Sampling": "itda.decode.sampling",
    "ItdaError": "itda.errors",
    "UserError": "itda.errors",
}
__all__ = [
    "Hypothesis",
    "ItdaError",
    "Sampling",
    "Seq2Seq",
    "UserError",
    "__version__",
    "fit",
    "load",
    "train",
    "train_seeds",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return import_module("importlib.metadata").version("itda")
    if name not in PLACES:
        raise AttributeError(f"module 'itda' has no attribute '{name}'")
    return getattr(import_module(PLACES[name]), name)


def __dir__() -> list[str]:
    return __all__
