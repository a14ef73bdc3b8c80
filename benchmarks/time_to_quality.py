"""Race for quality: BLEU on Multi30k's test2016 (beam 5, cased) against minutes of training, ours beside the peers'.

python benchmarks/time_to_quality.py --minutes 29 --seeds 1 2 3 --scratch SCRATCH      # all systems, one after another
python benchmarks/time_to_quality.py --systems itda-rnn opennmt-rnn --seeds 1 --scratch SCRATCH
python benchmarks/time_to_quality.py --ablation --minutes 10 --seeds 1 2 3 --scratch SCRATCH

Every system trains by its own command line on the same pairs, cut by the same joint BPE of 8,000, with the same sizes;
the clock runs from the start of its process, validations and checkpoints included. Its checkpoints are then translated
and measured, off the clock. A system that was measured with a seed already is not run again (its JSON says so).
"""

from __future__ import annotations

import argparse
import json
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from curve.joeynmt import RNN as JOEY_RNN
from curve.joeynmt import TRANSFORMER as JOEY_TRANSFORMER
from curve.joeynmt import joeynmt
from curve.opennmt import RNN as ONMT_RNN
from curve.opennmt import TRANSFORMER as ONMT_TRANSFORMER
from curve.opennmt import opennmt
from curve.ours import itda
from curve.system import System, Training
from curve.task import Task, make_task
from machine import ROOT, circumstances
from race.environments import NotInstalled, default_folder, install

FORMAT = 1
RESULTS = ROOT / "benchmarks" / "results"
SMALL = tuple(
    f"model.{change}"
    for change in ("encoder.dim=256", "decoder.dim=256", "decoder.input_feeding=true", "attention.kind=additive")
)
RNN, TINY = "multi30k-en-de-rnn", "multi30k-en-de-transformer-tiny"
SAME = "bidirectional LSTM 128 x 2, LSTM 256, additive attention, input feeding, 64 sentences a batch"
LAYERS = "4 + 4 layers of 128 numbers, 4 heads, 4,096 tokens a batch"

SYSTEMS: dict[str, Callable[[Path], System]] = {
    "itda-rnn": lambda root: itda("itda-rnn", RNN, SAME, *SMALL),
    "itda-rnn-512": lambda root: itda("itda-rnn-512", RNN, "the recipe as it is: LSTM 512, general attention"),
    "itda-transformer": lambda root: itda("itda-transformer", TINY, LAYERS),
    "opennmt-rnn": lambda root: opennmt("opennmt-rnn", SAME, install("opennmt", root), ONMT_RNN),
    "opennmt-transformer": lambda root: opennmt(
        "opennmt-transformer", LAYERS, install("opennmt", root), ONMT_TRANSFORMER
    ),
    "joeynmt-rnn": lambda root: joeynmt("joeynmt-rnn", SAME, install("joeynmt", root), JOEY_RNN),
    "joeynmt-transformer": lambda root: joeynmt(
        "joeynmt-transformer", LAYERS, install("joeynmt", root), JOEY_TRANSFORMER
    ),
}
CHANGES = {
    "as it is": (),
    "without tied embeddings": ('model.tie="none"',),
    "without label smoothing": ("train.label_smoothing=0",),
    "without warm-up": ("train.warmup=0",),
    "constant learning rate": ('train.schedule="constant"',),
    "batches of 4,096 tokens": ('train.batch_unit="tokens"', "train.batch=4096"),
    "dropout 0.2": ("model.dropout=0.2",),
    "LSTM 512, no feeding, general": (
        "model.encoder.dim=512", "model.decoder.dim=512", "model.decoder.input_feeding=false",
        "model.attention.kind=general",
    ),
}  # fmt: skip
ABLATION: dict[str, Callable[[Path], System]] = {
    f"ablation-{number}": lambda root, number=number, about=about, changes=changes: itda(
        f"ablation-{number}", RNN, about, *SMALL, *changes
    )
    for number, (about, changes) in enumerate(CHANGES.items())
}


def measure(system: System, training: Training) -> list[dict[str, Any]]:
    """Train, then translate by each checkpoint: the points of one curve."""
    checkpoints, points = system.train(training), []
    for number, checkpoint in enumerate(checkpoints):
        outputs = system.translate(training, checkpoints[: number + 1])
        point = {"seconds": round(checkpoint.seconds, 1), "update": checkpoint.update, **training.task.measure(outputs)}
        print("  ", json.dumps(point), flush=True)
        points.append(point)
    return points


def race(make: Callable[[Path], System], task: Task, options: argparse.Namespace) -> None:
    """Measure what is missing of a system, and write its JSON after each seed."""
    system = make(options.environments)
    path = options.results / f"curve-{system.name}.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    curves = known.get("curves", {})
    for seed in options.seeds:
        if str(seed) in curves:
            print(f"{system.name}, seed {seed}: measured already", flush=True)
            continue
        print(f"{system.name}, seed {seed}:", flush=True)
        folder = options.scratch / f"{system.name}-{seed}"
        training = Training(task, folder, seed, options.minutes, options.threads, options.every)
        points = measure(system, training)
        curves[str(seed)] = {
            "minutes": options.minutes,
            "threads": options.threads,
            "points": points,
            **circumstances(),
        }
        found = {"kind": "curve", "format": FORMAT, "system": system.name, "about": system.about}
        found |= {"settings": system.settings, "curves": curves}
        path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the race."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--ablation", action="store_true", help="our RNN with one thing changed at a time, instead")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--minutes", type=float, default=29.0, help="of each training, by the wall clock")
    parser.add_argument("--every", type=int, default=300, help="updates between two checkpoints")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--scratch", type=Path, required=True, help="where trainings are kept")
    parser.add_argument("--environments", type=Path, default=default_folder(), help="where peers are installed")
    parser.add_argument("--results", type=Path, default=RESULTS)
    options = parser.parse_args(argv)
    task, missing = make_task(options.scratch / "task"), 0
    systems = ABLATION if options.ablation else {name: SYSTEMS[name] for name in options.systems}
    for name, make in systems.items():
        try:
            race(make, task, options)
        except (NotInstalled, subprocess.CalledProcessError) as error:
            print(f"{name} gave no result: {error}", flush=True)
            missing += 1
    return min(missing, 1)


if __name__ == "__main__":
    raise SystemExit(main())
