"""One recipe with several seeds: each a full run, trained one after the other, measured together at the end."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from itda.config import Config
from itda.evaluate.group import GroupEvaluation, evaluate_group, validation_aggregates
from itda.evaluate.seeds import Aggregate
from itda.evaluate.systems import Say
from itda.group import Group, parse_seeds
from itda.run import FACTS, WEIGHTS, RunFolder
from itda.seq2seq import find_device
from itda.text.tokenizer import TokenizerPair, load_tokenizers
from itda.training.entry import complete, notices_of, recipe_for
from itda.training.material import learn_tokenizers
from itda.training.session import Session, open_session
from itda.training.start import Start

Follow = Callable[[int, Session], bool]
"""Trains a seed's session to its end; False where it was interrupted."""


def train_seeds(
    recipe: str | Path | Config, seeds: int | str, *overrides: str, device: str = "cpu", **settings: Any
) -> GroupResult:
    """Train a recipe with several seeds (3: seeds 1, 2, 3; or "1,2,5") and measure them together.

    `settings` are those of `train`: run, updates, epochs, minutes, resume, overwrite, start_from. The runs are
    RUN/seed-1 and so on; each can be loaded by itself.
    """
    resume, overwrite = settings.pop("resume", False), settings.pop("overwrite", False)
    config, path = recipe_for(recipe, overrides, resume=resume, **settings)

    def follow(seed: int, session: Session) -> bool:
        for notice in notices_of(session):
            warnings.warn(f"seed {seed}: {notice}", stacklevel=4)
        complete(session, lambda report: None)
        return True

    group = Group.claim(path, parse_seeds(str(seeds)), resume=resume, overwrite=overwrite)
    place = find_device(device)
    train_group(config, group, follow, resume=resume, overwrite=overwrite, device=place)
    return conclude(config, group, place)


def train_group(
    config: Config, group: Group, follow: Follow, *, resume: bool, overwrite: bool, device: torch.device
) -> int | None:
    """Train what is left of a group, seed by seed; the seed that was interrupted, or None where all are done."""
    tokenizers = None
    for number, seed in enumerate(group.seeds):
        one, path = replace(config, train=replace(config.train, seed=seed)), group.run(seed)
        if tokenizers is None and config.data.kind == "text":
            tokenizers = shared_tokenizers(config, group, anew=overwrite)
        session = open_session(one, path, resume=resume, overwrite=overwrite, device=device, tokenizers=tokenizers)
        if not number:
            if overwrite:
                group.clear(kept=seed)
            group.write()
        if session.standing.stopped and session.run.has(WEIGHTS):  # done, with this recipe and these data
            session.run.update(status="done")
            session.close()
        elif not follow(seed, session):
            return seed
    return None


def shared_tokenizers(config: Config, group: Group, anew: bool) -> TokenizerPair:
    """Take the tokenizers of the first run that has some, or learn them, with the recipe's own seed."""
    for path in [] if anew else group.runs:
        if (path / FACTS).exists() and (run := RunFolder.open(path)).has("tokenizer"):
            run.verify("tokenizer")
            return load_tokenizers(run.tokenizer_path)
    start = Start.open(Path(config.train.start_from), group.path) if config.train.start_from else None
    return learn_tokenizers(config, start)


@dataclass(frozen=True)
class GroupResult:
    """A group that is trained: where it is, and what its runs measured on validation and test pairs."""

    group: Group
    validation: dict[str, Aggregate]
    test: GroupEvaluation | None

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain values."""
        return {
            "seeds": list(self.group.seeds),
            "validation": {name: one.to_json() for name, one in self.validation.items()},
            "test": self.test.to_json() if self.test else None,
        }


def conclude(config: Config, group: Group, device: torch.device, say: Say = lambda text: None) -> GroupResult:
    """Measure a finished group on the recipe's test pairs, where it names some; evaluation.json keeps the answer."""
    text = config.data.kind == "text"
    test = evaluate_group(group.runs, device=device, say=say) if text and config.data.test else None
    result = GroupResult(group, validation_aggregates(group.runs), test)
    group.write_evaluation(result.to_json())
    return result
