"""Our side: itda's own training loop and its own search, on the prepared batches and sources."""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from itda import config as recipes
from itda.batch import Batch, pad_tokens
from itda.build import build_model
from itda.config import Config
from itda.config.fields import (
    AttentionConfig,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TrainConfig,
    TransformerConfig,
)
from itda.decode.scores import Scoring
from itda.decode.search import Search
from itda.decode.settings import Settings
from itda.nn.encoder_decoder import EncoderDecoder
from itda.training.loop import Standing, Update, UpdateReport, Work, train
from itda.training.objective import make_objective
from itda.training.session import make_optimizer, open_session
from race.child import EOS, Job, Laps, Pairs, Result, by_length, read_batches, read_sources, run, trained
from race.limit import Products


def recipe(sizes: dict[str, Any], updates: int = 1) -> Config:
    """Write the sizes of a job as an itda recipe."""
    transformer = sizes["family"] == "transformer"
    dim = sizes["dim"]
    layers = sizes.get("layers", 1)
    kind = "transformer" if transformer else "recurrent"
    model = ModelConfig(
        embedding_dim=dim,
        tie=sizes["tie"],
        dropout=sizes["dropout"],
        encoder=EncoderConfig(kind=kind, dim=dim, num_layers=layers),
        decoder=DecoderConfig(kind="transformer" if transformer else "luong", dim=dim, num_layers=layers, bridge="copy"),
        attention=AttentionConfig(kind=sizes.get("attention", "additive"), dim=dim),
        transformer=TransformerConfig(num_heads=sizes.get("heads", 4), ffn_dim=sizes.get("ffn", 256)),
    )
    if transformer:
        model = replace(model, decoder=replace(model.decoder, bridge="dense"))
    if sizes["family"] == "classroom":
        model = replace(
            model,
            embedding_dim=sizes["embedding"],
            encoder=EncoderConfig(cell="gru", dim=2 * dim),
            decoder=DecoderConfig(kind="bahdanau", cell="gru", dim=dim),
        )
    optim = TrainConfig(updates=updates, learning_rate=0.001, clip_norm=1.0, validate_every=10**9)
    return Config(data=DataConfig(kind="text"), model=model, train=optim)


def make_model(job: Job, updates: int = 1) -> tuple[Config, EncoderDecoder]:
    """Build the model of a job with its own initial weights."""
    torch.manual_seed(1)
    config = recipe(job["model"], updates)
    return config, build_model(config, job["vocab_size"], job["vocab_size"])


def to_batch(pairs: Pairs) -> Batch:
    """Make itda's batch of a prepared one."""
    src = pad_tokens([row[row != 0].tolist() for row in pairs.src])
    tgt = [row[row != 0].tolist() for row in pairs.tgt]
    return Batch(src, pad_tokens([ids[:-1] for ids in tgt]), pad_tokens([ids[1:] for ids in tgt]))


def training(job: Job) -> Result:
    """Train by itda's loop on the prepared batches."""
    prepared = read_batches(job["batches"])
    config, model = make_model(job, len(prepared))
    laps, losses = Laps(), []

    def updates(epoch: int, start: int) -> Iterator[Update]:
        for pairs in prepared:
            batch = to_batch(pairs)
            laps.lap()
            yield Update((batch,), pairs.num_targets)

    work = Work(
        config.train, model, make_optimizer(config, model), make_objective(config.train), updates,
        lambda epoch: len(prepared), lambda: {"loss": 0.0}, lambda standing: None, torch.device("cpu"), time.monotonic(),
    )  # fmt: skip
    with Products(enabled=job.get("record", False)) as products:
        for report in train(work, Standing()):
            if isinstance(report, UpdateReport):
                losses.append(report.nll)
                if len(losses) == len(prepared):
                    laps.lap()
            products.keep = len(losses) >= job["warm"]
    result = trained(laps, job, prepared, losses, sum(p.numel() for p in model.parameters()))
    return result | products.limit()


def decoding(job: Job) -> Result:
    """Decode the prepared sources by itda's search; with random weights eos is made all but impossible."""
    sources = read_sources(job["sources"])
    _, model = make_model(job)
    model.eval()
    if job.get("steps"):
        with torch.no_grad():
            model.head.bias[EOS] = -1e4
    settings = Settings(beam_size=job["beam"], scoring=Scoring(strength=1.0))
    outputs: list[list[int]] = [[]] * len(sources)
    with Products(enabled=job.get("record", False)) as products, torch.inference_mode():
        _decode(model, sources[: job["batch"]], job, settings, outputs)
        products.keep = True
        start = time.perf_counter()
        _decode(model, sources, job, settings, outputs)
        seconds = time.perf_counter() - start
    result = {"seconds": [seconds], "sentences": len(sources), "tokens": [sum(map(len, outputs))], "outputs": outputs[:50]}
    return result | products.limit()


def lecture(job: Job) -> Result:
    """Run the lecture's recipe, as `itda train lecture-vectors` does."""
    config = recipes.load("lecture-vectors", updates=job["updates"])
    with tempfile.TemporaryDirectory() as folder:
        session = open_session(config, Path(folder) / "run", device=torch.device("cpu"))
        laps, losses = Laps(), []
        laps.lap()
        for report in session.reports():
            if isinstance(report, UpdateReport):
                laps.lap()
                losses.append(report.loss)
        session.close()
    parameters = sum(p.numel() for p in session.seq2seq.model.parameters())
    return {"seconds": [sum(laps.seconds(0))], "updates": len(losses), "losses": losses[-1:], "parameters": parameters}


def _decode(
    model: EncoderDecoder, sources: list[list[int]], job: Job, settings: Settings, outputs: list[list[int]]
) -> None:
    for places in by_length(sources, job["batch"]):
        side = pad_tokens([sources[place] for place in places])
        lengths = torch.tensor([len(sources[place]) - 1 for place in places])
        limits = torch.full_like(lengths, job["steps"] - 1) if job.get("steps") else lengths * 2 + 10
        search = Search(model.decoder, model.head, model.encode(side), limits, settings)
        for place, found in zip(places, search.run(), strict=True):
            outputs[place] = [*found[0].ids, EOS]


if __name__ == "__main__":
    run({"training": training, "decoding": decoding, "lecture": lecture}, sys.argv[1])
