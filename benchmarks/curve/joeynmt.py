"""JoeyNMT in the race for quality, by its own command: joeynmt train, joeynmt translate."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from race.environments import RECIPES

from curve.system import Checkpoint, System, Training

_EMBEDDING = {"embedding_dim": 256, "scale": False, "dropout": 0.3}
_RECURRENT = {"type": "recurrent", "rnn_type": "lstm", "num_layers": 1, "dropout": 0.3, "embeddings": _EMBEDDING}
_SMALL = {"embedding_dim": 128, "scale": True, "dropout": 0.3}
_LAYERS = {
    "type": "transformer",
    "num_layers": 4,
    "num_heads": 4,
    "hidden_size": 128,
    "ff_size": 256,
    "dropout": 0.3,
    "layer_norm": "pre",
    "embeddings": _SMALL,
}
_SCHEDULE = {"scheduling": "plateau", "patience": 3, "decrease_factor": 0.6}
RNN = {
    "model": {
        "initializer": "uniform",
        "init_weight": 0.1,
        "embed_initializer": "uniform",
        "embed_init_weight": 0.1,
        "encoder": _RECURRENT | {"hidden_size": 128, "bidirectional": True},
        "decoder": _RECURRENT
        | {
            "hidden_size": 256,
            "attention": "bahdanau",
            "input_feeding": True,
            "init_hidden": "bridge",
            "hidden_dropout": 0.3,
        },
    },
    "training": {
        "optimizer": "adam",
        "learning_rate": 0.002,
        "batch_size": 64,
        "batch_type": "sentence",
        "normalization": "tokens",
        "clip_grad_norm": 1.0,
        **_SCHEDULE,
    },
}
TRANSFORMER = {
    "model": {
        "initializer": "xavier_uniform",
        "bias_initializer": "zeros",
        "embed_initializer": "xavier_uniform",
        "init_gain": 1.0,
        "embed_init_gain": 1.0,
        "tied_embeddings": True,
        "tied_softmax": True,
        "encoder": _LAYERS,
        "decoder": _LAYERS,
    },
    "training": {
        "optimizer": "adam",
        "adam_betas": [0.9, 0.98],
        "learning_rate": 0.004,
        "learning_rate_warmup": 1000,
        "scheduling": "warmupinversesquareroot",
        "batch_size": 4096,
        "batch_type": "token",
        "normalization": "tokens",
        "label_smoothing": 0.1,
        "clip_grad_norm": 1.0,
    },
}


def joeynmt(name: str, about: str, python: Path, parts: Mapping[str, Mapping[str, Any]]) -> System:
    """Describe a model of JoeyNMT as a system; `python` is the interpreter of its environment."""

    def configure(training: Training, load: Path | None = None) -> Path:
        words = training.folder / "words.txt"
        words.write_text("".join(word + "\n" for word in training.task.words), encoding="utf-8")
        side = {"level": "word", "lowercase": False, "max_length": 250, "voc_file": str(words)}
        prefixes = {
            name: str(training.task.folder / split)
            for name, split in zip(("train", "dev"), ("train", "valid"), strict=True)
        }
        settings = {
            "name": "race",
            "model_dir": str(training.folder / "model"),
            "use_cuda": False,
            "random_seed": training.seed,
            "data": {**prefixes, "dataset_type": "plain", "src": side | {"lang": "src"}, "trg": side | {"lang": "tgt"}},
            "model": parts["model"],
            "training": {
                "overwrite": True,
                "epochs": 10_000,
                "validation_freq": training.every,
                "logging_freq": training.every,
                "keep_best_ckpts": -1,
                "early_stopping_metric": "ppl",
                "shuffle": True,
                "loss": "crossentropy",
                **parts["training"],
            },
            "testing": {
                "eval_metrics": [],
                "beam_size": 5,
                "beam_alpha": 1.0,
                "batch_size": 64,
                "batch_type": "sentence",
                "max_output_length": 100,
                **({"load_model": str(load)} if load else {}),
            },
        }
        path = training.folder / ("translate.yaml" if load else "config.yaml")
        path.write_text(json.dumps(settings), encoding="utf-8")  # JSON is YAML too
        return path

    def command(training: Training) -> list[str]:
        return [str(python), "-m", "joeynmt", "train", str(configure(training)), "--skip-test"]

    def translate(training: Training, checkpoints: Sequence[Checkpoint]) -> list[str]:
        command = [str(python), "-m", "joeynmt", "translate", str(configure(training, checkpoints[-1].path))]
        with training.task.lines("test", "src").open(encoding="utf-8") as lines:
            done = subprocess.run(  # its --output-path fails in this release
                command, env=system.environment(training), stdin=lines, capture_output=True, text=True, check=True
            )
        return [training.task.text(line) for line in done.stdout.splitlines()[-len(training.task.test) :]]

    settings = {"version": "JoeyNMT 2.3.0", **parts}
    variables = dict(RECIPES["joeynmt"].variables)
    system = System(name, about, lambda training: (), command, "model/*.ckpt", translate, settings, variables)
    return system
