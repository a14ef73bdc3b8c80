"""Our side: itda's own training loop and its own search, on the prepared batches and sources."""

from __future__ import annotations

import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itda import config as recipes
from itda.allocator import keep_freed_memory
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
from itda.decode.crew import Crew, count_workers
from itda.decode.packing import pack
from itda.decode.scores import Scoring
from itda.decode.search import Search
from itda.decode.settings import Settings
from itda.nn.encoder_decoder import EncoderDecoder
from itda.training.loop import Standing, Update, UpdateReport, Work, train
from itda.training.objective import make_objective
from itda.training.session import make_optimizer, open_session
from race.child import (
    EOS,
    RATE,
    Job,
    Laps,
    Pairs,
    Result,
    decoded,
    most_steps,
    private_memory,
    read_batches,
    read_sources,
    run,
    trained,
)
from race.limit import Products
from race.sizes import embedding_dim

SAME = 100  # outputs that are held against those of a peer with the same weights


def recipe(sizes: dict[str, Any], updates: int = 1, rate: float = RATE) -> Config:
    """Write the sizes of a job as an itda recipe."""
    transformer = sizes["family"] == "transformer"
    dim = sizes["dim"]
    layers = sizes.get("layers", 1)
    kind = "transformer" if transformer else "recurrent"
    model = ModelConfig(
        embedding_dim=embedding_dim(sizes),
        feature_dim=dim if sizes["family"] == "rnn" else 0,
        tie=sizes["tie"],
        dropout=sizes["dropout"],
        encoder=EncoderConfig(kind=kind, dim=dim, num_layers=layers),
        decoder=DecoderConfig(
            kind="transformer" if transformer else "luong", dim=dim, num_layers=layers, bridge="copy"
        ),
        attention=AttentionConfig(kind=sizes.get("attention", "additive"), dim=dim),
        transformer=TransformerConfig(num_heads=sizes.get("heads", 4), ffn_dim=sizes.get("ffn", 256)),
    )
    if transformer:
        model = replace(model, decoder=replace(model.decoder, bridge="dense"))
    if sizes["family"] == "classroom":
        model = replace(
            model,
            encoder=EncoderConfig(cell="gru", dim=2 * dim),
            decoder=DecoderConfig(kind="bahdanau", cell="gru", dim=dim),
        )
    optim = TrainConfig(updates=updates, learning_rate=rate, clip_norm=1.0, validate_every=10**9)
    return Config(data=DataConfig(kind="text"), model=model, train=optim)


def make_model(job: Job, updates: int = 1) -> tuple[Config, EncoderDecoder]:
    """Build the model of a job with its own initial weights."""
    torch.manual_seed(1)
    config = recipe(job["model"], updates, job.get("learning_rate", RATE))
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
        lambda epoch: len(prepared), lambda: {"loss": 0.0}, lambda standing: None, torch.device("cpu"),
        time.monotonic(),
    )  # fmt: skip
    with Products(enabled=job.get("record", False)) as products:
        for report in train(work, Standing()):
            if isinstance(report, UpdateReport):
                losses.append(report.nll)
                if len(losses) == len(prepared):
                    laps.lap()
            products.keep = len(losses) >= job["warm"]
    if job.get("save"):
        save(model, job["save"])
    result = trained(laps, job, prepared, losses, sum(p.numel() for p in model.parameters()))
    return result | products.limit()


def save(model: EncoderDecoder, path: str) -> None:
    """Write all weights as arrays."""
    with Path(path).open("wb") as file:
        np.savez(file, **{name: tensor.detach().numpy() for name, tensor in model.state_dict().items()})


def decoding(job: Job) -> Result:
    """Decode the prepared sources by itda's search; with random weights eos is made all but impossible."""
    sources = read_sources(job["sources"])
    model = decoding_model(job)
    keep_freed_memory()
    if not job.get("record"):
        # Batches are cut as itda cuts them, and the number of sentences that a job names does not bind.
        own = job | {"batches": [len(sources)]}
        held_by: dict[int, int] = {}
        found = decoded(sources, own, lambda places, size: decode(model, sources, places, job, held_by=held_by))
        return found | {"workers_memory": max(held_by.values(), default=0) * torch.get_num_threads()}
    cores = torch.get_num_threads()
    torch.set_num_threads(1)  # as each worker has it
    with Products(enabled=True) as products:
        products.keep = True
        decode(model, sources, list(range(len(sources))), job, workers=1)
    found = products.limit()
    return {"seconds": [0.0]} | found | {"limit_seconds": found["limit_seconds"] / cores}


def decoding_model(job: Job) -> EncoderDecoder:
    """Make the model of a decoding job, trained or with random weights: the same wherever it is made."""
    _, model = make_model(job)
    if job.get("trained"):
        with np.load(job["trained"]) as arrays:
            model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})
    if job.get("steps"):
        with torch.no_grad():
            model.head.bias[EOS] = -1e4
    return model.eval()


def export(job: Job) -> Result:
    """Write the weights of a decoding job's model as arrays, for a peer that shall run the very same model.

    And give what it writes, with one step more than the job has: at the last one eos is forced here, not there.
    """
    model, sources = decoding_model(job), read_sources(job["sources"])[:SAME]
    save(model, job["weights"])
    longer = job | {"steps": job["steps"] + 1}
    outputs = decode(model, sources, list(range(len(sources))), longer)
    return {"seconds": [0.0], "outputs": [ids[:-1] for ids in outputs]}


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


@torch.inference_mode()
def decode(
    model: EncoderDecoder,
    sources: list[list[int]],
    places: list[int],
    job: Job,
    workers: int | None = None,
    held_by: dict[int, int] | None = None,
) -> list[list[int]]:
    """Decode as `Seq2Seq.generate` does: in its batches, by its workers; the closing eos is the last of the steps.

    `held_by` is told the most that each worker has for itself after a batch.
    """
    settings = Settings(beam_size=job["beam"], scoring=Scoring(strength=1.0))
    engine, outputs = model.decoder.engine(), dict[int, list[int]]()

    def write(batch: list[list[int]]) -> tuple[list[list[int]], int, int]:
        with torch.inference_mode():
            limits = torch.full((len(batch),), most_steps(job) - 1)
            memory = model.encode(pad_tokens(batch))
            search = Search(model.decoder, model.head, memory, limits, settings, engine=engine)
            written = [[*found[0].ids, EOS] for found in search.run()]
        is_worker = multiprocessing.parent_process() is not None
        return written, os.getpid(), private_memory() if is_worker else 0

    with Crew(write, count_workers(workers, torch.device("cpu"))) as crew:
        batches = list(pack([len(sources[place]) for place in places], settings.rows, workers=crew.workers))
        for number, (written, pid, held) in crew.do([[sources[places[one]] for one in batch] for batch in batches]):
            if held_by is not None:
                held_by[pid] = max(held_by.get(pid, 0), held)
            outputs |= {places[one]: ids for one, ids in zip(batches[number], written, strict=True)}
    return [outputs[place] for place in places]


if __name__ == "__main__":
    run({"training": training, "decoding": decoding, "lecture": lecture, "export": export}, sys.argv[1])
