"""Decode with the whole vocabulary, a shortlist, a certificate and int8 products; write time and quality of each.

python benchmarks/shortlist.py runs/multi30k-en-de-rnn --pairs multi30k_en_de/test --limit 1000

The ways take turns over parts of the test set, so that what slows the machine down slows all of them; a way's
`speedup` is the median over the parts of its sentences a second by those of the whole vocabulary at the same beam.
The run needs a shortlist: itda shortlist RUN. With ONEDNN_MAX_CPU_ISA=AVX2 in the environment, integer products do
without VNNI, as on an older machine; the JSON says so, and has a name of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from machine import ROOT, circumstances
from quality import public_name, read

from itda import weights
from itda.errors import ItdaError
from itda.evaluate.metrics import text_metrics
from itda.nn.int8 import round_model
from itda.nn.rounded import Int8Linear, Rounded, weight_limit
from itda.run import RunFolder
from itda.seq2seq import Seq2Seq

FORMAT = 1
RESULTS = ROOT / "benchmarks" / "results"
SHAPES = {  # out x in
    "rnn 256: gates": (1024, 512),
    "rnn 512: gates": (2048, 1024),
    "transformer tiny: feed-forward": (512, 128),
    "transformer base: projection": (512, 512),
    "transformer base: feed-forward": (2048, 512),
    "output 8k x 256": (8000, 256),
    "output 8k x 512": (8000, 512),
}
ROWS = (5, 64, 320)
SECONDS = 0.04


@dataclass
class Way:
    """A way to decode, what it wrote and how long each part took."""

    name: str
    beam: int
    int8: bool
    shortlist: str
    texts: list[str] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    rows: int = 0
    whole: int = 0

    def write(self, model: Seq2Seq, sources: Sequence[str]) -> None:
        """Decode one part."""
        started = time.perf_counter()
        writer = model._writer(1, {"beam_size": self.beam, "shortlist": self.shortlist})
        with writer.crew(1) as crew:  # what a screen counts is counted in this process
            found = writer.write(list(enumerate(sources, start=1)), crew, 64)
        self.rates.append(len(sources) / (time.perf_counter() - started))
        self.texts += [one.text for one in found]
        if self.shortlist == "certified" and writer.screen is not None:
            self.rows, self.whole = self.rows + writer.screen.tally.rows, self.whole + writer.screen.tally.whole


def ways(beams: Sequence[int]) -> Iterator[Way]:
    """All ways, the whole vocabulary first."""
    for beam in beams:
        yield Way("full", beam, False, "off")
        yield Way("shortlist", beam, False, "on")
        if beam == 1:
            yield Way("certified", beam, False, "certified")
        if weight_limit():
            yield Way("int8", beam, True, "off")
            yield Way("int8 + shortlist", beam, True, "on")


def measure(
    plain: Seq2Seq, rounded: Seq2Seq, pairs: Sequence[tuple[str, str]], beams: Sequence[int], parts: int
) -> list[dict[str, Any]]:
    """Let all ways decode all parts in turn, and compare each with the whole vocabulary at its beam."""
    chosen, size = list(ways(beams)), -(-len(pairs) // parts)
    for way in chosen:  # warm up
        Way(way.name, way.beam, way.int8, way.shortlist).write(rounded if way.int8 else plain, [pairs[0][0]] * 8)
    for start in range(0, len(pairs), size):
        for way in chosen:
            way.write(rounded if way.int8 else plain, [src for src, _ in pairs[start : start + size]])
    full = {way.beam: way for way in chosen if way.name == "full"}
    references = [tgt for _, tgt in pairs]
    return [result(way, full[way.beam], references) for way in chosen]


def result(way: Way, full: Way, references: Sequence[str]) -> dict[str, Any]:
    """What one way was worth."""
    bleu = {metric.name: metric.score for metric in text_metrics(way.texts, references)}["bleu"]
    same = sum(one == other for one, other in zip(way.texts, full.texts, strict=True)) / len(full.texts)
    return {
        "way": way.name,
        "beam_size": way.beam,
        "sentences_per_second": statistics.median(way.rates),
        "speedup": statistics.median(one / other for one, other in zip(way.rates, full.rates, strict=True)),
        "bleu": bleu,
        "same_as_full": same,
        "whole_vocabulary_share": way.whole / way.rows if way.rows else None,
    }


def list_sizes(model: Seq2Seq, sources: Sequence[str]) -> dict[str, float]:
    """How many words a sentence may be written with."""
    assert model.lexicon is not None
    assert model.tokenizers is not None
    own = [len(model.lexicon.own(model.tokenizers.src.encode(text))) for text in sources]
    size = model.tokenizers.tgt.vocab_size
    return {"vocabulary": size, "frequent": len(model.lexicon.frequent), "own_mean": statistics.mean(own)}


def products() -> list[dict[str, Any]]:
    """Time the products of known models, in fp32 and in int8 (rounding of the activations included)."""
    rows_of = []
    for name, (out, dim) in SHAPES.items() if weight_limit() else ():
        maps = {"fp32": torch.nn.Linear(dim, out), "int8": Int8Linear(torch.randn(out, dim), torch.randn(out))}
        for rows in ROWS:
            values = torch.randn(rows, dim)
            times = {f"{kind}_microseconds": fastest(one, values) for kind, one in maps.items()}
            rows_of.append({"product": name, "rows": rows, **times})
    return rows_of


@torch.inference_mode()
def fastest(function: Callable[[torch.Tensor], Any], values: torch.Tensor) -> float:
    """The shortest time of many calls, in microseconds."""
    function(values)
    best, end = float("inf"), time.perf_counter() + SECONDS
    while time.perf_counter() < end:
        started = time.perf_counter()
        function(values)
        best = min(best, time.perf_counter() - started)
    return round(best * 1e6, 1)


def stored(model: Seq2Seq) -> dict[str, int]:
    """The bytes of a weight file as it is, and with each matrix as int8 with a scale for each row."""
    tensors = weights.from_bytes(weights.to_bytes(model.model.state_dict()), Path("memory"))
    tied, whole = weights.ties(tensors), dict[str, torch.Tensor]()
    for name, tensor in tensors.items():
        if tensor.dim() == 2 and name not in tied:
            rounded = Rounded.of(tensor)
            whole |= {name: rounded.whole, f"{name}.scale": rounded.scale}
        elif name not in tied:
            whole[name] = tensor
    return {"fp32": len(weights.to_bytes(tensors)), "int8": len(weights.to_bytes(whole))}


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, metavar="RUN", help="a run folder with a shortlist")
    parser.add_argument("--pairs", default="", help="test pairs, named as in a recipe; default: the recipe's test")
    parser.add_argument("--limit", type=int, default=0, help="only the first N test pairs")
    parser.add_argument("--beams", type=int, nargs="+", default=[1, 5], help="beam sizes")
    parser.add_argument("--parts", type=int, default=5, help="parts that the ways take turns over")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options, isa = arguments(argv), os.environ.get("ONEDNN_MAX_CPU_ISA", "")
    torch.set_num_threads(options.threads)
    try:
        plain, rounded = Seq2Seq.load(options.run), Seq2Seq.load(options.run)
        if weight_limit():
            round_model(rounded.model)
        corpus = options.pairs or plain.config.data.test
        pairs = read(corpus, plain.config.data.swap, options.limit)
        record = {
            "kind": "shortlist",
            "format": FORMAT,
            "task": public_name(corpus),
            "run": options.run.resolve().name,
            "sentences": len(pairs),
            "shortlist": {**RunFolder.open(options.run).facts["shortlist"], **list_sizes(plain, [s for s, _ in pairs])},
            "ways": measure(plain, rounded, pairs, options.beams, options.parts),
            "largest_weight": weight_limit(),
            "products": products(),
            "isa": isa,
            "weights_bytes": stored(plain),
            **circumstances(),
        }
    except ItdaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    options.results.mkdir(parents=True, exist_ok=True)
    file = options.results / f"shortlist-{record['run']}{'-' + isa.lower() if isa else ''}.json"
    text = json.dumps(record, ensure_ascii=False, indent=2, allow_nan=False)
    file.write_text(text + "\n", encoding="utf-8", newline="\n")
    for one in record["ways"]:
        print(
            f"beam {one['beam_size']}  {one['way']:<17} {one['sentences_per_second']:7.1f} sent/s  "
            f"x {one['speedup']:.2f}  BLEU {one['bleu']:.2f}  same {one['same_as_full']:.1%}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
