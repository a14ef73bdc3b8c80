"""Schedules: the learning rate and the teacher-forcing ratio as pure functions of where training stands.

`step` counts updates from 0; `progress` is the share of the budget that is used, in [0, 1].
"""

from __future__ import annotations

import math

from itda.config import TeacherForcingConfig, TrainConfig


def learning_rate(config: TrainConfig, step: int, progress: float, plateau_scale: float = 1.0) -> float:
    """The rate of update `step`: linear warm-up, then the schedule."""
    if step < config.warmup:
        return config.learning_rate * (step + 1) / config.warmup
    match config.schedule:
        case "inverse-sqrt":
            scale = math.sqrt(max(1, config.warmup) / (step + 1))
        case "cosine":
            scale = config.final_scale + (1 - config.final_scale) * (1 + math.cos(math.pi * min(1.0, progress))) / 2
        case "plateau":
            scale = plateau_scale
        case _:
            scale = 1.0
    return config.learning_rate * scale


def forcing_ratio(config: TeacherForcingConfig, step: int, progress: float) -> float:
    """The probability that the decoder sees the reference at update `step` (Bengio et al. 2015, arXiv 1506.03099).

    Each schedule goes from `ratio` to `final_ratio`; x is the share of `decay_updates` (or of the budget) used:
    linear falls evenly, inverse-sigmoid stays high then falls around x = 0.5, exponential falls at once.
    """
    x = min(1.0, step / config.decay_updates if config.decay_updates else progress)
    match config.schedule:
        case "linear":
            share = 1 - x
        case "inverse-sigmoid":
            share = (_sigmoid(10 * (0.5 - x)) - _sigmoid(-5.0)) / (_sigmoid(5.0) - _sigmoid(-5.0))
        case "exponential":
            share = (math.exp(-5 * x) - math.exp(-5)) / (1 - math.exp(-5))
        case _:
            return config.ratio
    return config.final_ratio + (config.ratio - config.final_ratio) * share


def _sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))
