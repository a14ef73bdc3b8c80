"""Measure run folders on their test sets, beside two baselines, and write one JSON for each into results/.

python benchmarks/quality.py runs/multi30k-en-de-rnn --pairs multi30k_en_de/test --beam 5
python benchmarks/table.py
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from machine import ROOT, circumstances

from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.errors import ItdaError
from itda.evaluate.baselines import NearestSource, copy_source
from itda.evaluate.evaluation import Model, evaluate, evaluate_model
from itda.evaluate.significance import compare

FORMAT = 1
RESULTS = ROOT / "benchmarks" / "results"
Pairs = list[tuple[str, str]]


@dataclass(frozen=True)
class Measured:
    """What was found on one task: everything for the JSON, and the outputs for people to read."""

    evaluation: dict[str, Any]
    baselines: dict[str, Any]
    against: dict[str, Any]
    outputs: list[str]


def measure(model: Model, test: Pairs, train: Pairs, *, beam_size: int, seed: int) -> Measured:
    """Evaluate a model and the baselines on the same pairs, and test the model against each; no train, no nearest."""
    sources, references = [src for src, _ in test], [tgt for _, tgt in test]
    found, outputs = evaluate_model(model, test, beam_size=beam_size, seed=seed)
    answers = {"copy": copy_source(sources)}
    if train:
        nearest = NearestSource([src for src, _ in train], [tgt for _, tgt in train])
        answers["nearest"] = nearest.predict(sources)
    return Measured(
        found.to_json(),
        {name: evaluate(texts, references, sources, seed=seed).to_json() for name, texts in answers.items()},
        {name: compare(outputs, texts, references, seed=seed).to_json() for name, texts in answers.items()},
        outputs,
    )


def public_name(corpus: str) -> str:
    """Name a corpus without the folders of this machine: the last two parts, without the file's endings."""
    names = []
    for part in corpus.split(","):
        path = PurePosixPath(part.strip().replace("\\", "/"))
        names.append("/".join([*path.parent.parts[-1:], re.sub(r"(\.tsv)?(\.gz)?$", "", path.name)]).lstrip("/"))
    return ",".join(names)


def result_file(folder: Path, run: str, task: str) -> Path:
    """Name the file of a result."""
    name = re.sub(r"[^\w.-]+", "-", f"{run}-{task}")
    return folder / f"quality-{name}.json"


def read(corpus: str, swap: bool, limit: int = 0) -> Pairs:
    """Read the pairs of a corpus, the first `limit` of them where it is given."""
    pairs = [(pair.src, pair.tgt) for pair in read_pairs(locate(corpus), swap=swap)]
    return pairs[:limit] if limit else pairs


def measure_run(path: Path, options: argparse.Namespace) -> tuple[dict[str, Any], Measured, Pairs]:
    """Measure one run folder; corpora and beam that are not given are those of its recipe."""
    from itda import config
    from itda.run import RunFolder, read_metrics
    from itda.seq2seq import Seq2Seq

    run = RunFolder.open(path)
    recipe = config.parse(run.read_config(), str(run.config_path))
    corpus = options.pairs or recipe.data.test
    beam = options.beam or recipe.decode.beam_size
    test = read(corpus, recipe.data.swap, options.limit)
    train = [] if options.no_nearest else read(options.train or recipe.data.train, recipe.data.swap)
    started = time.monotonic()
    found = measure(Seq2Seq.load(path), test, train, beam_size=beam, seed=options.seed)
    training = {name: run.facts.get(name) for name in ("minutes", "threads", "update", "best", "commit", "torch")}
    return (
        {
            "kind": "quality",
            "format": FORMAT,
            "task": public_name(corpus),
            "run": path.resolve().name,
            "about": recipe.about,
            "beam_size": beam,
            "training": {**training, "seed": recipe.train.seed, "corpus": public_name(recipe.data.train)},
            "curve": curve(read_metrics(run.metrics_path)),
            "evaluation": found.evaluation,
            "baselines": found.baselines,
            "against": found.against,
            "seed": options.seed,
            "minutes": round((time.monotonic() - started) / 60, 3),
            **circumstances(),
        },
        found,
        test,
    )


def curve(metrics: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Keep the learning curve: every validation against minutes, with the mean training loss since the one before."""
    points, losses = [], [0.0, 0]
    for line in metrics:
        if line["kind"] == "update":
            losses = [losses[0] + float(line["nll"]) * line["num_targets"], losses[1] + line["num_targets"]]
        else:
            nll, losses = losses[0] / max(1, losses[1]), [0.0, 0]
            points.append({"step": line["step"], "minutes": line["minutes"], "train_nll": nll, **line["metrics"]})
    return points


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders")
    parser.add_argument("--pairs", default="", help="test pairs, named as in a recipe; default: the recipe's test")
    parser.add_argument("--train", default="", help="pairs of the nearest-source baseline; default: the recipe's train")
    parser.add_argument("--no-nearest", action="store_true", help="leave the nearest-source baseline out")
    parser.add_argument("--beam", type=int, default=0, help="beam size; default: the recipe's")
    parser.add_argument("--limit", type=int, default=0, help="only the first N test pairs")
    parser.add_argument("--seed", type=int, default=1, help="seed of the resampling")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    parser.add_argument("--outputs", type=Path, help="folder for the outputs: source, reference, output (TSV)")
    return parser.parse_args(argv)


def write_outputs(folder: Path, name: str, test: Pairs, outputs: Sequence[str]) -> None:
    """Write what the model said beside what it should have said."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["\t".join([*pair, output]) + "\n" for pair, output in zip(test, outputs, strict=True)]
    (folder / f"{name}.tsv").write_text("".join(lines), encoding="utf-8", newline="\n")


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    options.results.mkdir(parents=True, exist_ok=True)
    try:
        for path in options.runs:
            record, found, test = measure_run(path, options)
            file = result_file(options.results, record["run"], record["task"])
            text = json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)
            file.write_text(text + "\n", encoding="utf-8", newline="\n")
            if options.outputs:
                write_outputs(options.outputs, file.stem, test, found.outputs)
            main_metric = record["evaluation"]["main"]
            value = record["evaluation"][main_metric]
            print(f"{file.name}: {main_metric} {value['score']:.2f} [{value['low']:.2f}, {value['high']:.2f}]")
    except ItdaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
