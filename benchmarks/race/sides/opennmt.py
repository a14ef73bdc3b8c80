"""OpenNMT-py: its own model builder, Trainer, loss and optimiser, and its own Translator, on the prepared ids."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator

import pyonmttok
import torch
from onmt import opts
from onmt.model_builder import build_model
from onmt.trainer import build_trainer
from onmt.translate import GNMTGlobalScorer
from onmt.translate.translator import Translator
from onmt.utils.optimizers import Optimizer
from onmt.utils.parse import ArgumentParser

from race.child import (
    EOS,
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
from race.sizes import opennmt_arguments


def options(job: Job) -> argparse.Namespace:
    """Read the sizes of a job as OpenNMT-py reads its options."""
    parser = ArgumentParser()
    opts.train_opts(parser)
    given, _ = parser.parse_known_args(["--data", "{}", "--src_vocab", "none", *opennmt_arguments(job["model"], job)])
    given.data = {}
    ArgumentParser.update_model_opts(given)
    ArgumentParser.validate_model_opts(given)
    return given


def vocabularies(size: int) -> dict[str, object]:
    """Make a vocabulary in which each prepared id is itself."""
    specials = ["<blank>", "<unk>", "<s>", "</s>"]
    tokens = [f"t{number}" for number in range(len(specials), size)]
    vocabulary = pyonmttok.build_vocab_from_tokens(tokens, special_tokens=specials)
    vocabulary.default_id = 1
    assert len(vocabulary) == size
    assert vocabulary["</s>"] == EOS
    return {"src": vocabulary, "tgt": vocabulary, "data_task": "seq2seq", "decoder_start_token": "<s>"}


def to_batch(pairs: Pairs) -> dict[str, object]:
    """Make OpenNMT-py's batch of a prepared one."""
    return {
        "src": torch.from_numpy(pairs.src)[:, :, None],
        "srclen": torch.from_numpy(pairs.src_lengths),
        "tgt": torch.from_numpy(pairs.tgt)[:, :, None],
        "tgtlen": torch.from_numpy((pairs.tgt != 0).sum(1)),
    }


def training(job: Job) -> Result:
    """Train by OpenNMT-py's Trainer on the prepared batches."""
    torch.manual_seed(1)
    given, vocabs = options(job), vocabularies(job["vocab_size"])
    model = build_model(given, given, vocabs, None, -1)
    trainer = build_trainer(given, -1, model, vocabs, Optimizer.from_opt(model, given))
    prepared, laps, losses = read_batches(job["batches"]), Laps(), []
    compute = trainer.train_loss.forward

    def watched(batch: dict, *args: object, **kwargs: object) -> tuple:
        loss, stats = compute(batch, *args, **kwargs)
        losses.append(stats.xent())
        return loss, stats

    trainer.train_loss.forward = watched

    def batches() -> Iterator[tuple[dict, int]]:
        for pairs in prepared:
            batch = to_batch(pairs)
            laps.lap()
            yield batch, 0

    trainer.train(batches(), len(prepared))
    laps.lap()
    if job.get("save"):
        torch.save(model.state_dict(), job["save"])
    return trained(laps, job, prepared, losses, sum(p.numel() for p in model.parameters()))


def decoding(job: Job) -> Result:
    """Decode the prepared sources by OpenNMT-py's Translator."""
    torch.manual_seed(1)
    given, vocabs = options(job), vocabularies(job["vocab_size"])
    model = build_model(given, given, vocabs, None, -1).eval()
    if job.get("trained"):
        torch.nn.Module.load_state_dict(model, torch.load(job["trained"]))
    if job.get("steps"):
        with torch.no_grad():
            model.generator.bias[EOS] = -1e4
    parser = ArgumentParser()
    opts.translate_opts(parser)
    limits = ["--max_length", str(most_steps(job)), "--max_length_ratio", "0"]
    asked = parser.parse_args(["--model", "none", "--src", "none", "--beam_size", str(job["beam"]), *limits])
    translator = Translator.from_opt(
        model, vocabs, asked, given, global_scorer=GNMTGlobalScorer(1.0, 0.0, "avg", "none"), report_score=False
    )
    sources = read_sources(job["sources"])
    return decoded(sources, job, lambda places, size: decode(translator, sources, places, size))


def decode(translator: Translator, sources: list[list[int]], places: list[int], size: int) -> list[list[int]]:
    """Decode in batches of similar length, longest first in each, as OpenNMT-py's own iterator does."""
    outputs: dict[int, list[int]] = {}
    for cut in by_length(sources, places, size):
        rows = [torch.tensor(sources[place]) for place in cut[::-1]]
        src = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)[:, :, None]
        batch = {"src": src, "srclen": torch.tensor([len(row) for row in rows])}
        found = translator.translate_batch(batch, attn_debug=False)
        outputs |= {place: best.tolist() for place, (best, *_) in zip(cut[::-1], found["predictions"], strict=True)}
    return [outputs[place] for place in places]


if __name__ == "__main__":
    run({"training": training, "decoding": decoding}, sys.argv[1])
