"""A recipe that starts from a run: what it leaves open is the run's, what it says otherwise is refused by name."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from itda.config.fields import Config
from itda.config.keys import Setting, all_keys, put, show
from itda.config.unread import value_of
from itda.errors import UserError

Base = Callable[[Config], "Path | None"]
"""From a recipe to the run folder whose recipe fills it in; None: it stands by itself."""

# Weights and ids depend on none of these, so a recipe may say otherwise; what it does not say is inherited too.
FREE = {
    "model.dropout",
    "model.variational",
    "model.transformer.attention_dropout",
    "tokenizer.sampling",
    "tokenizer.min_count",
}
# How this run extends the vocabulary: the other one's extension is in its vocabulary already.
OWN = {"tokenizer.added", "tokenizer.added_from_data"}
ENDS = tuple(f"data.{key}" for key in ("kind", "src_dim", "tgt_dim", "source_factors", "target_factors", "tags"))
SHOWN = 3  # settings that an error names


def starting_point(config: Config) -> Path | None:
    """The run that a recipe starts from."""
    return Path(config.train.start_from) if config.train.start_from else None


def inherited_keys() -> list[str]:
    """List the settings that the run decides: model, tokenizer, and what its two ends are made for."""
    return [
        key
        for key, setting in all_keys().items()
        if isinstance(setting, Setting) and (key.startswith(("model.", "tokenizer.")) or key in ENDS) and key not in OWN
    ]


def inherit(config: Config, named: Collection[str], parent: Config, source: str) -> Config:
    """Fill a recipe in from its parent's; a `named` setting that the parent's weights or ids exclude is a UserError."""
    conflicts = []
    for key in inherited_keys():
        mine, theirs = value_of(config, key), value_of(parent, key)
        if mine == theirs or (key in named and key in FREE):
            continue
        if key in named:
            conflicts.append(f"{key} is {show(theirs)} in {source}, {show(mine)} in the recipe")
        config = put(config, key.split("."), theirs)
    if conflicts:
        more = f" (and {len(conflicts) - SHOWN} more)" if len(conflicts) > SHOWN else ""
        raise UserError(
            f"train.start_from: {'; '.join(conflicts[:SHOWN])}{more}; weights and vocabulary are the run's: remove "
            "what differs (what a recipe leaves open is inherited), or start from another run"
        )
    return config
