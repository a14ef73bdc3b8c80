"""Objectives: what an update minimises. The loop knows only that one maps a batch to `Sums`."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Generator

from itda.batch import Batch
from itda.config import DecodeConfig, TrainConfig
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Sums
from itda.text.tokenizer import Tokenizer
from itda.training.guided import guided_likelihood
from itda.training.r_drop import r_drop
from itda.training.risk import Candidates, Risk, Sampler, expected_risk, text_risk
from itda.training.rollout import exact_rollout, parallel_rollout
from itda.training.schedule import forcing_ratio

Objective = Callable[[EncoderDecoder, Batch, int, float, Generator], Sums]
"""(model, batch, step, progress, generator of this update's coins) -> Sums."""


def likelihood(model: EncoderDecoder, batch: Batch, step: int, progress: float, coins: Generator) -> Sums:
    """Maximum likelihood under teacher forcing."""
    return model.loss(batch)


def make_objective(
    config: TrainConfig, decode: DecodeConfig | None = None, tokenizer: Tokenizer | None = None
) -> Objective:
    """The objective of a recipe; what samples must have its way to decode, and the target's tokenizer."""
    if config.objective == "likelihood":
        return _of_reference(config)
    assert decode is not None, "samples are written, and that needs to know how long they may be"
    assert tokenizer is not None, "minimum risk is measured on text"
    risk = config.minimum_risk
    sampler = Sampler(risk.samples, risk.reference, config.seed, decode)
    base = _of_reference(config) if risk.likelihood else likelihood
    return minimum_risk(sampler, text_risk(risk.metric, tokenizer), risk.sharpness, risk.likelihood, base)


def _of_reference(config: TrainConfig) -> Objective:
    """What is learned from the reference: its likelihood, with what a recipe adds, or scheduled sampling."""
    forcing, weight = config.teacher_forcing, config.guided_alignment.weight
    if weight:
        return lambda model, batch, step, progress, coins: guided_likelihood(model, batch, weight)
    if config.r_drop:
        return lambda model, batch, step, progress, coins: r_drop(model, batch, config.r_drop)
    if forcing.schedule == "constant" and forcing.ratio == 1.0:
        return likelihood
    rollout = exact_rollout if forcing.form == "exact" else parallel_rollout

    def scheduled_sampling(model: EncoderDecoder, batch: Batch, step: int, progress: float, coins: Generator) -> Sums:
        return rollout(model, batch, forcing_ratio(forcing, step, progress), forcing.granularity, coins)

    return scheduled_sampling


def minimum_risk(candidates: Candidates, risk: Risk, sharpness: float, share: float, base: Objective) -> Objective:
    """The expected risk of each sentence, and `share` of another objective beside it.

    A sentence's risk counts for each of its target positions, so that both are means over the positions of an update.
    """

    def objective(model: EncoderDecoder, batch: Batch, step: int, progress: float, coins: Generator) -> Sums:
        with torch.set_grad_enabled(share > 0):
            sums = base(model, batch, step, progress, coins)
        risks = expected_risk(model, batch, candidates(model, batch, step), risk, sharpness)
        total = (risks * batch.tgt_out.mask.sum(1)).sum()
        parts = {**sums.parts, "risk": total.detach()}
        return Sums(sums.nll, share * sums.objective + (1 - share) * total, sums.count, parts)

    return objective
