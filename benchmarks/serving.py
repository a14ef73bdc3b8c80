"""Time against BLEU on Multi30k's test2016: itda's architectures as they are served, and CTranslate2 beside them.

python benchmarks/serving.py --ours runs/multi30k-en-de-rnn runs/... --transformer runs/multi30k-en-de-transformer-tiny

Each run is served greedily and with a beam of 5, as it is, with a shortlist where it has one (itda shortlist RUN), and
rounded to int8; CTranslate2 serves the very weights of the Transformer, in fp32 and int8, by the better of its two ways
to use two threads. Every measured process is fresh; they take turns. Our side is given text and gives text; theirs
reads and writes ids, which is a little less work. A point is beaten where another is quicker and no worse.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from machine import ROOT, circumstances
from race.child import EOS
from race.environments import RECIPES, NotInstalled, default_folder, install
from race.turns import Side, SideFailed, our_side, speed, take_turns

from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.errors import ItdaError
from itda.evaluate.metrics import text_metrics
from itda.explain import fonts, picture
from itda.explain.curves import COLOURS
from itda.seq2seq import Seq2Seq

FORMAT = 1
CORPUS = "multi30k_en_de"
RESULTS = ROOT / "benchmarks" / "results"
OURS, THEIRS = "serving", "ctranslate2"
BATCHES = [32, 64, 128]  # sentences that CTranslate2 may decode together; the best of them counts


@dataclass(frozen=True)
class Point:
    """A system with a model and its settings."""

    side: str
    run: str
    way: str
    beam: int
    job: dict[str, Any]
    model: Seq2Seq

    @property
    def name(self) -> str:
        """Name it for a line of the result."""
        engine = "CTranslate2, " if self.side == THEIRS else ""
        return f"{engine}{self.run}, {self.way}, {'greedy' if self.beam == 1 else f'beam {self.beam}'}"

    def texts(self, result: dict[str, Any]) -> list[str]:
        """Read what a result has written."""
        if self.side == OURS:
            return list(result["texts"])
        tokenizer = self.model.tokenizers.tgt if self.model.tokenizers else None
        assert tokenizer is not None, "a run that is served here has text"
        return [tokenizer.decode([token for token in ids if token != EOS]) for ids in result["outputs"]]


def our_points(folder: Path, texts: Sequence[str], beams: Sequence[int], passes: int) -> Iterator[Point]:
    """List the ways in which a run of ours is served."""
    model = Seq2Seq.load(folder)
    ways: dict[str, dict[str, Any]] = {"fp32": {}, "int8": {"int8": True}}
    if model.lexicon is not None:
        ways |= {"shortlist": {"shortlist": "on"}, "int8 + shortlist": {"int8": True, "shortlist": "on"}}
    for beam in beams:
        for way, more in ways.items():
            job = {"work": "serving", "run": str(folder.resolve()), "beam": beam, "texts": list(texts)}
            yield Point(OURS, folder.resolve().name, way, beam, job | {"passes": passes} | more, model)


def their_points(
    folder: Path, texts: Sequence[str], beams: Sequence[int], passes: int, scratch: Path
) -> Iterator[Point]:
    """List the ways in which CTranslate2 serves a Transformer of ours."""
    model = Seq2Seq.load(folder)
    parts, tokenizers = model.config.model, model.tokenizers
    assert tokenizers is not None, "the corpus is text"
    weights, sources = scratch / f"{folder.name}.npz", scratch / f"{folder.name}.json"
    with weights.open("wb") as file:
        np.savez(file, **{name: tensor.numpy() for name, tensor in model.model.state_dict().items()})
    sources.write_text(json.dumps([[*tokenizers.src.encode(text), EOS] for text in texts]), encoding="utf-8")
    sizes = {
        "layers": parts.encoder.num_layers,
        "dim": parts.encoder.dim,
        "heads": parts.transformer.num_heads,
    }
    for beam in beams:
        for kind in ("float32", "int8"):
            job = {
                "work": "decoding", "model": sizes, "vocab_size": tokenizers.tgt.vocab_size, "weights": str(weights),
                "sources": str(sources), "beam": beam, "batches": BATCHES, "passes": passes, "type": kind,
                "kept": len(texts),
            }  # fmt: skip
            yield Point(THEIRS, folder.resolve().name, "fp32" if kind == "float32" else kind, beam, job, model)


def measure(points: Sequence[Point], sides: dict[str, Side], references: Sequence[str], options: Any) -> list[Any]:
    """Run all points in turn, and give each its speed and BLEU."""
    named = {point.name: point for point in points}
    results, failed = take_turns(
        list(named),
        options.rounds,
        lambda name: sides[named[name].side].run(named[name].job, options.threads),
        lambda line: print(line, flush=True),
        every=True,
    )
    found = []
    for name, point in named.items():
        done = [each for each in results[name] if each]
        if not done:
            print(f"{name} gave no result: {failed[name]}", flush=True)
            continue
        bleu = {metric.name: metric.score for metric in text_metrics(point.texts(done[0]), references)}["bleu"]
        speeds = [round(speed(each), 1) for each in done]
        found.append({
            "name": name, "engine": "CTranslate2" if point.side == THEIRS else "itda", "run": point.run,
            "way": point.way, "beam_size": point.beam, "bleu": round(bleu, 2),
            "sentences_per_second": statistics.median(speeds), "speeds": speeds,
        })  # fmt: skip
    return found


def at_equal_bleu(points: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Hold each point of CTranslate2 against our quickest that is no worse."""
    compared = []
    for theirs in (point for point in points if point["engine"] != "itda"):
        equal = [point for point in points if point["engine"] == "itda" and point["bleu"] >= theirs["bleu"]]
        best = max(equal, key=lambda point: point["sentences_per_second"], default=None)
        ratio = best and round(best["sentences_per_second"] / theirs["sentences_per_second"], 2)
        compared.append({"theirs": theirs["name"], "ours": best and best["name"], "ratio": ratio})
    return compared


def draw(points: Sequence[dict[str, Any]], path: Path) -> Path:
    """Draw BLEU against sentences a second, a colour for each model and a ring for each point of CTranslate2."""
    runs = list(dict.fromkeys((point["engine"], point["run"]) for point in points))
    with fonts.drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 4.2), layout="constrained")
        axes = figure.subplots()
        for number, (engine, run) in enumerate(runs):
            own = [point for point in points if (point["engine"], point["run"]) == (engine, run)]
            colour = picture.INK if engine != "itda" else COLOURS[number % len(COLOURS)]
            xs, ys = [point["sentences_per_second"] for point in own], [point["bleu"] for point in own]
            axes.scatter(xs, ys, s=34, color=colour if engine == "itda" else "none", edgecolors=colour,
                         label=f"{engine}: {run}")  # fmt: skip
            for x, y, point in zip(xs, ys, own, strict=True):
                word = f"{point['way']}, {'greedy' if point['beam_size'] == 1 else 'beam ' + str(point['beam_size'])}"
                axes.annotate(word, (x, y), xytext=(4, 3), textcoords="offset points", fontsize=6.5, color=colour)
        axes.set_xscale("log")
        axes.set_xlabel("sentences a second, two cores")
        axes.set_ylabel("BLEU, test2016")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, labelcolor=picture.INK)
        return picture.save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure all points, write them, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ours", nargs="+", type=Path, required=True, help="run folders")
    parser.add_argument("--transformer", nargs="*", type=Path, default=[], help="runs that CTranslate2 serves too")
    parser.add_argument("--beams", nargs="+", type=int, default=[1, 5])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--environments", type=Path, default=default_folder())
    parser.add_argument("--picture", type=Path)
    parser.add_argument("--out", type=Path, default=RESULTS / "serving.json")
    options = parser.parse_args(argv)
    try:
        pairs = [(pair.src, pair.tgt) for pair in read_pairs(locate(f"{CORPUS}/test"))]
        texts, references = [src for src, _ in pairs], [tgt for _, tgt in pairs]
        sides = {OURS: our_side(OURS)}
        with tempfile.TemporaryDirectory() as scratch:
            points = [one for run in options.ours for one in our_points(run, texts, options.beams, options.passes)]
            if options.transformer:
                python = install(THEIRS, options.environments.resolve())
                sides[THEIRS] = Side(THEIRS, python, dict(RECIPES[THEIRS].variables))
            for run in options.transformer:
                points += their_points(run, texts, options.beams, options.passes, Path(scratch))
            found = measure(points, sides, references, options)
    except (ItdaError, NotInstalled, SideFailed) as error:
        print(error, file=sys.stderr)
        return 2
    record = {"kind": "serving", "format": FORMAT, "threads": options.threads, "rounds": options.rounds}
    record |= {"points": found, "at_equal_bleu": at_equal_bleu(found), **circumstances()}
    options.out.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    if options.picture:
        print(draw(found, options.picture))
    return 0


if __name__ == "__main__":
    sys.exit(main())
