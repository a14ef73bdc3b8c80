"""Objectives: what an update minimises. The loop knows only that one maps a batch to `Sums`."""

from __future__ import annotations

from collections.abc import Callable

from torch import Generator

from itda.batch import Batch
from itda.config import TrainConfig
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Sums
from itda.training.rollout import exact_rollout, parallel_rollout
from itda.training.schedule import forcing_ratio

Objective = Callable[[EncoderDecoder, Batch, int, float, Generator], Sums]
"""(model, batch, step, progress, generator of this update's coins) -> Sums."""


def likelihood(model: EncoderDecoder, batch: Batch, step: int, progress: float, coins: Generator) -> Sums:
    """Maximum likelihood under teacher forcing."""
    return model.loss(batch)


def make_objective(config: TrainConfig) -> Objective:
    """The objective of a recipe: likelihood, or scheduled sampling where the reference is not always shown."""
    forcing = config.teacher_forcing
    if forcing.schedule == "constant" and forcing.ratio == 1.0:
        return likelihood
    rollout = exact_rollout if forcing.form == "exact" else parallel_rollout

    def scheduled_sampling(model: EncoderDecoder, batch: Batch, step: int, progress: float, coins: Generator) -> Sums:
        return rollout(model, batch, forcing_ratio(forcing, step, progress), forcing.granularity, coins)

    return scheduled_sampling
