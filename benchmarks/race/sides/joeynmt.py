"""JoeyNMT: its own model builder, TrainManager's step and optimiser, and its own search, on the prepared ids."""

from __future__ import annotations

import logging
import sys
from types import SimpleNamespace

import torch
from joeynmt.batch import Batch
from joeynmt.builders import build_gradient_clipper, build_optimizer
from joeynmt.model import Model, build_model
from joeynmt.search import search
from joeynmt.training import TrainManager
from joeynmt.vocabulary import Vocabulary

from race.child import (
    BOS,
    EOS,
    PAD,
    RATE,
    Job,
    Laps,
    Pairs,
    Result,
    by_length,
    decoded,
    most_steps,
    read_batches,
    read_sources,
    run,
    trained,
)
from race.sizes import joeynmt_model

CPU = torch.device("cpu")
JOEY_UNK, JOEY_PAD = 0, 1  # a JoeyNMT vocabulary begins with <unk>, and the prepared ids with padding


def vocabulary(size: int) -> Vocabulary:
    """Make a vocabulary in which each prepared id is itself, but for the first two, which change places."""
    names = {"unk_token": "<unk>", "pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>", "sep_token": None}
    ids = {"unk_id": JOEY_UNK, "pad_id": JOEY_PAD, "bos_id": BOS, "eos_id": EOS, "sep_id": None}
    specials = SimpleNamespace(**names, **ids, lang_tags=[])
    found = Vocabulary([f"t{number}" for number in range(4, size)], specials)
    assert len(found) == size, len(found)
    return found


def make_model(job: Job) -> Model:
    """Build the model of a job, with JoeyNMT's own initial weights."""
    torch.manual_seed(1)
    logging.disable(logging.CRITICAL)
    words = vocabulary(job["vocab_size"])
    model = build_model(joeynmt_model(job["model"]), src_vocab=words, trg_vocab=words)
    model.loss_function = ("crossentropy", 0.0)
    return model


def to_batch(pairs: Pairs) -> Batch:
    """Make JoeyNMT's batch of a prepared one."""
    src, tgt = swapped(torch.from_numpy(pairs.src)), swapped(torch.from_numpy(pairs.tgt))
    lengths, places = torch.from_numpy(pairs.src_lengths), torch.arange(len(src))
    return Batch(src, lengths, None, tgt, None, places, CPU, JOEY_PAD, EOS)


def swapped(ids: torch.Tensor) -> torch.Tensor:
    """Let padding and <unk> change places."""
    return torch.where(ids < 2, 1 - ids, ids)


def manager(model: Model, rate: float) -> TrainManager:
    """Make a TrainManager without its folder, its log and its schedule: what its `_train_step` reads."""
    settings = {"optimizer": "adam", "learning_rate": rate, "clip_grad_norm": 1.0, "adam_betas": (0.9, 0.999)}
    settings |= {"weight_decay": 0.0, "clip_grad_val": None}
    made = TrainManager.__new__(TrainManager)
    made.model, made.n_gpu, made.scaler, made.device, made.rank = model, 0, None, CPU, 0
    made.args = SimpleNamespace(normalization="tokens", batch_multiplier=1)
    made.autocast = {"device_type": "cpu", "enabled": False}
    made.optimizer = build_optimizer(cfg=settings, parameters=model.parameters())
    made.clip_grad_fun = build_gradient_clipper(cfg=settings)
    return made


def training(job: Job) -> Result:
    """Train by JoeyNMT's own step on the prepared batches; around it, what its loop does."""
    model = make_model(job)
    trainer = manager(model, job.get("learning_rate", RATE))
    prepared, laps, losses = read_batches(job["batches"]), Laps(), []
    model.zero_grad()
    for pairs in prepared:
        batch = to_batch(pairs)
        laps.lap()
        loss, _ = trainer._train_step(batch)
        trainer.clip_grad_fun(parameters=model.parameters())
        trainer.optimizer.step()
        model.zero_grad()
        losses.append(loss)
    laps.lap()
    if job.get("save"):
        torch.save(model.state_dict(), job["save"])
    return trained(laps, job, prepared, losses, sum(p.numel() for p in model.parameters()))


def decoding(job: Job) -> Result:
    """Decode the prepared sources by JoeyNMT's search, with its fewest tokens where a number of steps is fixed."""
    model = make_model(job).eval()
    if job.get("trained"):
        model.load_state_dict(torch.load(job["trained"]))
    sources = read_sources(job["sources"])
    return decoded(sources, job, lambda places, size: decode(model, sources, places, size, job))


def decode(model: Model, sources: list[list[int]], places: list[int], size: int, job: Job) -> list[list[int]]:
    """Decode in batches of similar length."""
    outputs: dict[int, list[int]] = {}
    for cut in by_length(sources, places, size):
        rows = [torch.tensor(sources[place]) for place in cut[::-1]]
        src = swapped(torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=PAD))
        lengths = torch.tensor([len(row) for row in rows])
        batch = Batch(src, lengths, None, None, None, torch.arange(len(src)), CPU, JOEY_PAD, EOS, is_train=False)
        found, _, _ = search(
            model, batch, max_output_length=most_steps(job), beam_size=job["beam"], beam_alpha=1.0, n_best=1,
            min_output_length=job.get("steps") or 1, generate_unk=True,
        )  # fmt: skip
        for place, ids in zip(cut[::-1], found, strict=True):
            outputs[place] = [token for token in ids.tolist() if token != JOEY_PAD]
    return [outputs[place] for place in places]


if __name__ == "__main__":
    run({"training": training, "decoding": decoding}, sys.argv[1])
