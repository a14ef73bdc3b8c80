"""OpenNMT-py in the race for quality, by its own commands: onmt_build_vocab, onmt_train, onmt_translate."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from race.environments import RECIPES

from curve.system import Checkpoint, System, Training

RNN = {
    "encoder_type": "brnn",
    "decoder_type": "rnn",
    "rnn_type": "LSTM",
    "layers": 1,
    "input_feed": 1,
    "global_attention": "mlp",
    "hidden_size": 256,
    "word_vec_size": 256,
    "dropout": [0.3],
    "param_init": 0.1,
    "optim": "adam",
    "learning_rate": 0.002,
    "learning_rate_decay": 0.6,
    "start_decay_steps": 1500,
    "decay_steps": 400,
    "batch_type": "sents",
    "batch_size": 64,
    "max_grad_norm": 1.0,
}
TRANSFORMER = {
    "encoder_type": "transformer",
    "decoder_type": "transformer",
    "layers": 4,
    "heads": 4,
    "transformer_ff": 256,
    "hidden_size": 128,
    "word_vec_size": 128,
    "position_encoding": True,
    "dropout": [0.3],
    "attention_dropout": [0.1],
    "param_init": 0.0,
    "param_init_glorot": True,
    "share_embeddings": True,
    "share_decoder_embeddings": True,
    "optim": "adam",
    "adam_beta2": 0.998,
    "decay_method": "noam",
    "learning_rate": 2.0,
    "warmup_steps": 1000,
    "label_smoothing": 0.1,
    "batch_type": "tokens",
    "batch_size": 4096,
    "normalization": "tokens",
    "max_grad_norm": 0.0,
    "max_relative_positions": 0,
}


def opennmt(name: str, about: str, python: Path, model: Mapping[str, Any]) -> System:
    """Describe a model of OpenNMT-py as a system; `python` is the interpreter of its environment."""
    folder = python.parent

    def configure(training: Training) -> Path:
        task, vocabulary = training.task, str(training.folder / "vocabulary")
        pairs = {
            split: {f"path_{side}": str(task.lines(split, side)) for side in ("src", "tgt")}
            for split in ("train", "valid")
        }
        settings = {
            "data": {"train": pairs["train"], "valid": pairs["valid"]},
            "save_data": str(training.folder / "data"),
            "src_vocab": vocabulary,
            "tgt_vocab": vocabulary,
            "share_vocab": True,
            "overwrite": True,
            "save_model": str(training.folder / "model"),
            "keep_checkpoint": -1,
            "seed": training.seed,
            "train_steps": 1_000_000,
            "valid_steps": training.every,
            "save_checkpoint_steps": training.every,
            "report_every": 50,
            "num_workers": 0,
            "bucket_size": 32768,
            "src_vocab_size": 10**6,
            "tgt_vocab_size": 10**6,
            **model,
        }
        path = training.folder / "config.yaml"
        path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML too
        return path

    def vocabulary(training: Training) -> list[list[str]]:
        return [[str(folder / "onmt_build_vocab"), "-config", str(configure(training)), "-n_sample", "-1"]]

    def command(training: Training) -> list[str]:
        return [str(folder / "onmt_train"), "-config", str(training.folder / "config.yaml")]

    def translate(training: Training, checkpoints: Sequence[Checkpoint]) -> list[str]:
        output = training.folder / "output.txt"
        options = ["-beam_size", "5", "-batch_size", "64", "-max_length", "100", "-length_penalty", "avg"]
        files = ["-src", str(training.task.lines("test", "src")), "-output", str(output)]
        subprocess.run(
            [str(folder / "onmt_translate"), "-model", str(checkpoints[-1].path), *files, *options],
            env=system.environment(training), capture_output=True, check=True,
        )  # fmt: skip
        return [training.task.text(line) for line in output.read_text(encoding="utf-8").splitlines()]

    settings = {"version": "OpenNMT-py 3.5.1", **model}
    variables = dict(RECIPES["opennmt"].variables)
    system = System(name, about, vocabulary, command, "model_step_*.pt", translate, settings, variables)
    return system
