"""Draw what results/quality-*.json hold: learning curves against minutes, and scores by source length.

python benchmarks/pictures.py multi30k_en_de/test docs/pictures/multi30k
writes docs/pictures/multi30k-curve.png and docs/pictures/multi30k-by-length.png, one line for each run of the task.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from itda.explain import fonts, picture
from itda.explain.curves import COLOURS, NAMES, by_length_picture

ROOT = Path(__file__).resolve().parent.parent


def records(task: str) -> list[dict[str, Any]]:
    """Read the results of a task, the best run first."""
    found = [
        json.loads(f.read_text(encoding="utf-8")) for f in (ROOT / "benchmarks" / "results").glob("quality-*.json")
    ]
    chosen = [record for record in found if record["task"] == task]
    return sorted(chosen, key=lambda record: -record["evaluation"][record["evaluation"]["main"]]["score"])


def draw_curves(chosen: list[dict[str, Any]], path: Path) -> Path:
    """Draw the watched validation metric of each run against minutes of training."""
    from matplotlib.figure import Figure

    metric = chosen[0]["training"]["best"]["metric"]
    with fonts.drawing(*(record["run"] for record in chosen)):
        figure = Figure(figsize=(6.4, 3.8), layout="constrained")
        axes = figure.subplots()
        for number, record in enumerate(chosen):
            minutes, values = zip(*((p["minutes"], p[metric]) for p in record["curve"] if metric in p), strict=True)
            colour = COLOURS[number % len(COLOURS)]
            axes.plot(minutes, values, marker="o", markersize=3.5, linewidth=1.4, color=colour, label=record["run"])
        axes.set_xlabel("minutes of training, set-up and validation included")
        axes.set_ylabel(f"validation {NAMES.get(metric, metric)} (greedy)")
        axes.set_xlim(left=0)
        axes.set_ylim(bottom=0)
        axes.grid(axis="y", color=picture.FAINT, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9, loc="lower right", labelcolor=picture.INK)
        return picture.save(figure, path)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", help="such as multi30k_en_de/test")
    parser.add_argument("prefix", type=Path, help="where the pictures go: PREFIX-curve.png, PREFIX-by-length.png")
    options = parser.parse_args(argv)
    chosen = records(options.task)
    if not chosen:
        print(f"no results for {options.task}; run benchmarks/quality.py first", file=sys.stderr)
        return 2
    main_metric = chosen[0]["evaluation"]["main"]
    runs = {record["run"]: record["evaluation"]["by_length"] for record in chosen}
    prefix = options.prefix
    print(draw_curves(chosen, prefix.with_name(prefix.name + "-curve.png")))
    print(by_length_picture(runs, prefix.with_name(prefix.name + "-by-length.png"), metric=main_metric))
    return 0


if __name__ == "__main__":
    sys.exit(main())
