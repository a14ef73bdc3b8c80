"""Measure how time and memory grow: with sentences, length, vocabulary and beam; each point in a process of its own.

python benchmarks/growth.py --picture docs/pictures/growth.png
python benchmarks/growth.py --axes beam length --through "some lock"

Writes results/growth.json. `exponent` is the slope between the last two points on logarithmic scales: 1 is linear.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from machine import ROOT, circumstances
from race.child import BOS, EOS, Pairs, memory_now, peak_memory
from race.prepared import padded
from race.rows import RNN, TINY
from race.turns import clean_environment, our_side

FORMAT = 1
RNN_256 = RNN | {"dim": 256, "attention": "additive"}
MODELS = {"RNN 256": RNN_256, "Transformer tiny": TINY}
UPDATES, WARM = 5, 2


@dataclass(frozen=True)
class Axis:
    """What grows, through which values, and what is measured at each."""

    values: tuple[int, ...]
    label: str
    lines: tuple[str, ...]  # what is drawn
    measure: Callable[[int, str], list[float]]  # value, line -> seconds of each repetition


def measure_sentences(value: int, line: str) -> list[float]:
    """Write a corpus of so many lines, and time how its store is built, or how an epoch of it is planned."""
    from itda.config import DataConfig, TokenizerConfig
    from itda.data.catalog import locate
    from itda.data.corpus import read_pairs
    from itda.data.plan import Plan
    from itda.data.store import build_store
    from itda.text.tokenizer import train_tokenizers

    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder) / "corpus.tsv"
        write_lines(corpus, value)
        files = locate(str(corpus))
        config = TokenizerConfig(kind="words", vocab_size=8000)
        tokenizers = train_tokenizers(
            config, lambda: ((p.src, p.tgt) for n, p in enumerate(read_pairs(files)) if n < 1000), 1
        )
        start = time.perf_counter()
        store = build_store(files, tokenizers, DataConfig(train=str(corpus)), Path(folder) / "stores")
        built = time.perf_counter() - start
        if line == "store":
            return [built]
        start = time.perf_counter()
        count = sum(1 for _ in Plan(store.lengths(), 4096, "tokens").epoch(0))
        assert count, "an epoch has updates"
        return [time.perf_counter() - start]


def write_lines(path: Path, count: int) -> None:
    """Write made-up pairs: words drawn from 5,000, targets the same words reversed."""
    draw = random.Random(1)
    words = [f"w{number}" for number in range(5000)]
    with path.open("w", encoding="utf-8") as file:
        for _ in range(count):
            chosen = draw.choices(words, k=draw.randint(5, 20))
            file.write(f"{' '.join(chosen)}\t{' '.join(reversed(chosen))}\n")


def measure_training(line: str, vocabulary: int, rows: int, length: int) -> list[float]:
    """Time updates on one batch of random ids."""
    from race.sides.itda import make_model, to_batch

    from itda.training.session import make_optimizer

    config, model = make_model({"model": MODELS[line], "vocab_size": vocabulary})
    draw = random.Random(1)
    sides = [[[draw.randint(4, vocabulary - 1) for _ in range(length)] for _ in range(rows)] for _ in range(2)]
    src, tgt = (padded([[*ids, EOS] for ids in sides[0]]), padded([[BOS, *ids, EOS] for ids in sides[1]]))
    batch, optimizer, seconds = to_batch(Pairs(src, tgt)), make_optimizer(config, model), []
    for _ in range(UPDATES):
        start = time.perf_counter()
        optimizer.zero_grad(set_to_none=True)
        sums = model.loss(batch)
        (sums.objective / sums.count).backward()
        optimizer.step()
        seconds.append(time.perf_counter() - start)
    return seconds[WARM:]


def measure_beam(value: int, line: str) -> list[float]:
    """Time the decoding of 32 sentences of 15 tokens into 20 steps, with random weights."""
    from race.sides.itda import decode, decoding_model

    from itda.decode.settings import Settings

    job = {"model": MODELS[line], "vocab_size": 8000, "steps": 20}
    model, draw, seconds = decoding_model(job), random.Random(1), []
    sources = [[*(draw.randint(4, 7999) for _ in range(14)), EOS] for _ in range(32)]
    for _ in range(3):
        start = time.perf_counter()
        decode(model, sources, list(range(len(sources))), 32, job, Settings(beam_size=value))
        seconds.append(time.perf_counter() - start)
    return seconds[1:]


AXES = {
    "sentences": Axis((1_000, 10_000, 100_000, 1_000_000), "lines of the corpus", ("store", "plan"), measure_sentences),
    "length": Axis(
        (10, 30, 100, 300, 1000, 2000), "tokens of a sentence\n(4 sentences)", tuple(MODELS),
        lambda value, line: measure_training(line, 8000, 4, value),
    ),
    "vocabulary": Axis(
        (1000, 4000, 16_000, 64_000), "entries of the vocabulary\n(64 sentences of 15 tokens)", tuple(MODELS),
        lambda value, line: measure_training(line, value, 64, 15),
    ),
    "beam": Axis((1, 2, 5, 10, 20, 50), "beam size\n(32 sentences, 20 steps)", tuple(MODELS), measure_beam),
}  # fmt: skip


def point(axis: str, value: int, line: str) -> dict[str, Any]:
    """Measure one point, in this process."""
    before = memory_now()
    seconds = AXES[axis].measure(value, line)
    return {"seconds": min(seconds), "peak_memory": peak_memory(), "start_memory": before}


def in_child(axis: str, value: int, line: str, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one point in a process of its own."""
    command = [
        *options.through.split(),
        sys.executable,
        str(Path(__file__).resolve()),
        "--point",
        axis,
        str(value),
        line,
    ]
    environment = clean_environment(options.threads) | dict(our_side().variables)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{axis} {value} {line}: {done.stderr.strip()[-500:]}")
    found: dict[str, Any] = json.loads(done.stdout)
    return {"value": value, **found}


def exponent(points: Sequence[dict[str, Any]], name: str, base: str = "") -> float | None:
    """Compute the slope between the last two points on logarithmic scales; memory beyond what the start took."""
    if len(points) < 2:
        return None
    before, last = (each[name] - (each[base] if base else 0) for each in points[-2:])
    if min(before, last) <= 0:
        return None
    return round(math.log(last / before) / math.log(points[-1]["value"] / points[-2]["value"]), 2)


def short(value: int) -> str:
    """Write 64,000 as 64k, and 1,000,000 as 1M."""
    for size, letter in ((1_000_000, "M"), (1000, "k")):
        if value >= size and value % size == 0:
            return f"{value // size}{letter}"
    return str(value)


def draw(record: dict[str, Any], path: Path) -> Path:
    """Draw each axis: seconds above, memory below, on logarithmic scales."""
    from itda.explain import fonts, picture
    from itda.explain.curves import COLOURS

    with fonts.drawing():
        from matplotlib.figure import Figure
        from matplotlib.ticker import FuncFormatter, NullFormatter, NullLocator

        axes = record["axes"]
        figure = Figure(figsize=(3.1 * len(axes), 5.2), layout="constrained")
        panels = figure.subplots(2, len(axes), squeeze=False, sharex="col")
        for column, (name, lines) in enumerate(axes.items()):
            top, bottom = panels[0][column], panels[1][column]
            for number, (line, found) in enumerate(lines.items()):
                values, colour = [each["value"] for each in found["points"]], COLOURS[number % len(COLOURS)]
                style = {"marker": "o", "markersize": 3.5, "linewidth": 1.4, "color": colour, "label": line}
                top.plot(values, [each["seconds"] for each in found["points"]], **style)
                bottom.plot(values, [each["peak_memory"] / 2**20 for each in found["points"]], **style)
            values = [each["value"] for each in next(iter(lines.values()))["points"]]
            for panel in (top, bottom):
                panel.set_xscale("log")
                panel.xaxis.set_minor_locator(NullLocator())
                panel.set_xticks(values, [short(value) for value in values])
                panel.grid(color=picture.FAINT, linewidth=0.6)
                panel.spines[["top", "right"]].set_visible(False)
            top.set_yscale("log")
            top.yaxis.set_major_formatter(FuncFormatter(lambda seconds, _: f"{seconds:g}"))
            top.yaxis.set_minor_formatter(NullFormatter())
            bottom.set_ylim(bottom=0)
            bottom.set_xlabel(AXES[name].label)
            top.legend(frameon=False, fontsize=8, labelcolor=picture.INK)
        panels[0][0].set_ylabel("seconds")
        panels[1][0].set_ylabel("peak memory (MiB)")
        return picture.save(figure, path)


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--axes", nargs="+", choices=list(AXES), default=list(AXES), help="what grows")
    parser.add_argument("--most", type=int, default=0, help="leave larger values out")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--through", default="", help="a command in front of each measured process, such as a lock")
    parser.add_argument("--json", type=Path, default=ROOT / "benchmarks" / "results" / "growth.json")
    parser.add_argument("--picture", type=Path, help="draw the result here")
    parser.add_argument("--point", nargs=3, metavar=("AXIS", "VALUE", "LINE"), help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    if options.point:
        axis, value, line = options.point
        print(json.dumps(point(axis, int(value), line)))
        return 0
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    found: dict[str, Any] = {}
    for name in options.axes:
        found[name] = {}
        values = [value for value in AXES[name].values if not options.most or value <= options.most]
        for line in AXES[name].lines:
            points = [in_child(name, value, line, options) for value in values]
            slopes = {"time": exponent(points, "seconds"), "memory": exponent(points, "peak_memory", "start_memory")}
            found[name][line] = {"points": points, "exponent": slopes}
            print(f"{name}, {line}: time ~ n^{slopes['time']}, memory ~ n^{slopes['memory']}", flush=True)
    record = {"kind": "growth", "format": FORMAT, "threads": options.threads, "axes": found} | circumstances()
    options.json.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    if options.picture:
        print(draw(record, options.picture))
    return 0


if __name__ == "__main__":
    sys.exit(main())
