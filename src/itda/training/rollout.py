"""Scheduled sampling: the decoder is fed its own prediction where a coin says so (Bengio et al. 2015).

`ratio` is the probability of the reference. The first input (bos, or the zero vector) is never replaced.
A fed-back vector carries gradient, as in the lecture's program; a fed-back token cannot.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool
from torch import Generator, Tensor

from itda.batch import Batch, Side, Tokens
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Decoded, Memory, Sums


def toss(shape: torch.Size, ratio: float, granularity: str, coins: Generator) -> Bool[Tensor, "batch tgt"]:
    """True where the reference is shown: a coin for each token, each sequence, or each step of the whole batch."""
    batch, length = shape
    sizes = {"token": (batch, length), "sequence": (batch, 1), "step": (1, length)}[granularity]
    return (torch.rand(sizes, generator=coins) < ratio).expand(batch, length)


def exact_rollout(model: EncoderDecoder, batch: Batch, ratio: float, granularity: str, coins: Generator) -> Sums:
    """Position t + 1 is fed the reference, or what the model predicted at t."""
    memory = model.encode(batch.src)
    shown = toss(batch.tgt_in.mask.shape, ratio, granularity, coins)
    quick = model.head.rollout_loss(model.decoder, batch, memory, shown)
    return quick or model.head.loss(stepwise(model, batch.tgt_in, memory, shown), batch.tgt_out, memory)


def stepwise(model: EncoderDecoder, tgt_in: Side, memory: Memory, shown: Bool[Tensor, "batch tgt"]) -> Decoded:
    """Decode step by step: what a head's `rollout_loss` must equal."""
    gold = tgt_in.values
    shown = shown.to(gold.device)
    state, previous, features = model.decoder.start(memory), gold[:, 0], []
    for position in range(gold.shape[1]):
        decoded, state = model.decoder.step(previous, state)
        features.append(decoded.features)
        if position + 1 < gold.shape[1]:
            own = model.head.predict(decoded, memory)[:, 0]
            keep = shown[:, position + 1].view(-1, *[1] * (own.dim() - 1))
            previous = torch.where(keep, gold[:, position + 1], own)
    return Decoded(torch.cat(features, dim=1))


def parallel_rollout(model: EncoderDecoder, batch: Batch, ratio: float, granularity: str, coins: Generator) -> Sums:
    """Two passes: predictions under teacher forcing, then the loss with some inputs replaced by them.

    An approximation of the exact form (the predictions were made from gold prefixes) at twice the price of
    teacher forcing, whatever the length.
    """
    memory = model.encode(batch.src)
    gold = batch.tgt_in.values
    with torch.no_grad():
        own = model.head.predict(model.decoder(batch.tgt_in, memory), memory)
    own = torch.cat([gold[:, :1], own[:, :-1].to(gold.dtype)], dim=1)
    shown = toss(gold.shape[:2], ratio, granularity, coins).to(gold.device)
    mixed = torch.where(shown.view(*shown.shape, *[1] * (gold.dim() - 2)), gold, own)
    side = replace(batch.tgt_in, ids=mixed) if isinstance(batch.tgt_in, Tokens) else replace(batch.tgt_in, values=mixed)
    return model.head.loss(model.decoder(side, memory), batch.tgt_out, memory)
