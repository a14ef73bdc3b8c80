"""The peers' own command lines on the same text: what they print of their speed, as their users see it.

The text has a word for each prepared id, so that no side cuts words otherwise. Batches are cut by the peer itself.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from race.child import RATE
from race.prepared import Prepared
from race.sizes import joeynmt_model, opennmt_arguments
from race.turns import Side, SideFailed, clean_environment

UPDATES, EVERY, DROPPED = 12, 2, 2  # updates, updates between printed rates, rates dropped because they warm up
TIMEOUT = 900
OPENNMT_RATE = re.compile(r"Step\s+(\d+)/.*?;\s*(\d+)/\s*(\d+) tok/s")
JOEYNMT_RATE = re.compile(r"Step:\s*(\d+),.*?Tokens per Sec:\s*([\d.]+)")


def opennmt_rates(log: str) -> list[float]:
    """Read target tokens a second from what onmt_train prints: `2101/2219 tok/s` is source and target."""
    return [float(found[3]) for found in OPENNMT_RATE.finditer(log)]


def joeynmt_rates(log: str) -> list[float]:
    """Read target tokens a second from what `joeynmt train` prints."""
    return [float(found[2]) for found in JOEYNMT_RATE.finditer(log)]


def own_rate(rates: list[float]) -> float:
    """Take the median of the printed rates, those of the warm-up dropped."""
    kept = rates[DROPPED:]
    if not kept:
        raise SideFailed(f"its own command line printed {len(rates)} rates; more than {DROPPED} are needed")
    return statistics.median(kept)


def own_command(peer: str, side: Side, job: Mapping[str, Any], prepared: Prepared, threads: int) -> dict[str, Any]:
    """Train by a peer's own command line, and give the speed that it prints."""
    write, read = COMMANDS[peer]
    with tempfile.TemporaryDirectory() as folder:
        arguments = write(Path(folder), job, prepared)
        environment = clean_environment(threads) | dict(side.variables)
        command = [*side.through, str(side.python), *arguments]
        done = subprocess.run(
            command, env=environment, cwd=folder, capture_output=True, text=True, timeout=TIMEOUT, check=False
        )
        log = done.stdout + done.stderr
    if done.returncode:
        raise SideFailed(f"{peer}'s own command line ended with status {done.returncode}: {log.strip()[-300:]}")
    rates = read(log)
    return {"speed": own_rate(rates), "speeds": rates}


def _lines(folder: Path, prepared: Prepared) -> tuple[Path, Path, Path]:
    vocabulary = folder / "vocabulary.txt"
    vocabulary.write_text("".join(f"t{n}\n" for n in range(4, prepared.vocab_size)), encoding="utf-8")
    return (*prepared.write_lines(len(prepared.src)), vocabulary)


def _opennmt(folder: Path, job: Mapping[str, Any], prepared: Prepared) -> list[str]:
    src, tgt, vocabulary = _lines(folder, prepared)
    corpora = {"corpus": {"path_src": str(src), "path_tgt": str(tgt), "transforms": [], "weight": 1}}
    config = folder / "config.yaml"  # JSON is YAML
    config.write_text(json.dumps({"data": corpora, "skip_empty_level": "silent"}), encoding="utf-8")
    sizes = opennmt_arguments(job["model"], job)
    return [
        "-m", "onmt.bin.train", "--config", str(config), "--src_vocab", str(vocabulary), "--tgt_vocab", str(vocabulary),
        "--src_vocab_size", str(prepared.vocab_size), "--tgt_vocab_size", str(prepared.vocab_size), *sizes,
        "--batch_type", job["batch_unit"], "--batch_size", str(job["batch"]),
        "--train_steps", str(UPDATES), "--valid_steps", "100000",
        "--report_every", str(EVERY), "--save_checkpoint_steps", "100000", "--save_model", str(folder / "model"),
        "--num_workers", "0", "--bucket_size", "32768", "--seed", "1",
    ]  # fmt: skip


def _joeynmt(folder: Path, job: Mapping[str, Any], prepared: Prepared) -> list[str]:
    src, tgt, vocabulary = _lines(folder, prepared)
    vocabulary.write_text("<unk>\n<pad>\n<s>\n</s>\n" + vocabulary.read_text(encoding="utf-8"), encoding="utf-8")
    train = folder / "train"
    for path, language in ((src, "en"), (tgt, "de")):
        (folder / f"train.{language}").write_bytes(path.read_bytes())
        lines = path.read_bytes().splitlines(keepends=True)[:2]
        (folder / f"valid.{language}").write_bytes(b"".join(lines))
    side = {"voc_file": str(vocabulary), "level": "word", "max_length": 200, "lowercase": False}
    data = {"train": str(train), "dev": str(folder / "valid"), "dataset_type": "plain"}
    config = {
        "name": "own", "joeynmt_version": "2.3.0", "model_dir": str(folder / "model"),
        "use_cuda": False, "random_seed": 1,
        "data": data | {"src": side | {"lang": "en"}, "trg": side | {"lang": "de"}},
        "testing": {"beam_size": 1, "batch_size": 2, "batch_type": "sentence", "eval_metrics": ["bleu"], "n_best": 1},
        "training": {
            "optimizer": "adam", "learning_rate": RATE, "clip_grad_norm": 1.0, "batch_size": job["batch"],
            "batch_type": "token", "scheduling": "plateau", "patience": 100, "updates": UPDATES, "epochs": 100,
            "validation_freq": 100000, "logging_freq": EVERY, "early_stopping_metric": "loss",
            "normalization": "tokens", "overwrite": True, "shuffle": True, "print_valid_sents": [0],
            "keep_best_ckpts": 1, "loss": "crossentropy",
        },
        "model": joeynmt_model(job["model"]),
    }  # fmt: skip
    file = folder / "config.yaml"
    file.write_text(json.dumps(config), encoding="utf-8")
    return ["-m", "joeynmt", "train", str(file), "--skip-test"]


COMMANDS: dict[str, tuple[Callable[..., list[str]], Callable[[str], list[float]]]] = {
    "opennmt": (_opennmt, opennmt_rates),
    "joeynmt": (_joeynmt, joeynmt_rates),
}
