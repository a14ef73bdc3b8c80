"""Write the tables of README.md and README.ko.md from results/quality-*.json and speed-*.json; `--check` only compares.

Each README holds the first between the lines `<!-- results:start -->` and `<!-- results:end -->`, and the table of
speed between `<!-- speed:start -->` and `<!-- speed:end -->`, which may be left out while nothing was measured.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import speed_table
from race.standing import read_results as read_races

ROOT = Path(__file__).resolve().parent.parent
START, END = "<!-- results:start -->", "<!-- results:end -->"
METRICS = ("bleu", "chrf", "exact_match", "bits_per_character")
WORDS = {
    "README.md": {
        "columns": (
            "Task",
            "Model",
            "Training (minutes × threads)",
            "BLEU",
            "chrF",
            "Exact match (%)",
            "Bits per character",
        ),
        "copy": "*copy the source*",
        "nearest": "*the target of the nearest training source*",
        "none": "No results yet.",
        "about": "In brackets: 95 % bootstrap intervals. Made by `benchmarks/table.py` from `benchmarks/results/`; "
        "commit, machine and date of each figure stand there.",
        "signatures": "Signatures",
        "machines": "Machines",
        "cores": "cores",
    },
    "README.ko.md": {
        "columns": ("과제", "모델", "학습 (분 × 스레드)", "BLEU", "chrF", "완전 일치 (%)", "문자당 비트"),
        "copy": "*원문 복사*",
        "nearest": "*가장 비슷한 학습 문장의 번역*",
        "none": "아직 결과가 없습니다.",
        "about": "대괄호 안은 95% 부트스트랩 신뢰구간입니다. `benchmarks/results/`의 파일에서 "
        "`benchmarks/table.py`가 만들며, 각 수치의 커밋, 환경, 날짜가 그 파일에 있습니다.",
        "signatures": "sacreBLEU 시그니처",
        "machines": "측정 환경",
        "cores": "코어",
    },
}


class TableError(Exception):
    """What keeps the table from being written."""


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read all quality results, by task, the best first."""
    records = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("quality-*.json"))]

    def place(record: dict[str, Any]) -> tuple[str, float, str]:
        found = record["evaluation"]
        return record["task"], -(found[found["main"]]["score"] or 0.0), record["run"]

    return sorted(records, key=place)


def render(records: Sequence[dict[str, Any]], words: dict[str, Any]) -> str:
    """Lay out the table and what stands below it, as Markdown."""
    if not records:
        return f"{words['none']}\n"
    lines = [_row(words["columns"]), _row(["---", "---", *["--:"] * (1 + len(METRICS))])]
    for number, record in enumerate(records):
        lines.append(_row([record["task"], record["run"], _time(record["training"]), *_cells(record)]))
        last = number + 1 == len(records) or records[number + 1]["task"] != record["task"]
        if last:  # the baselines of a task are the same in each of its files
            for name, found in record["baselines"].items():
                lines.append(_row([record["task"], words[name], "", *_cells({"evaluation": found})]))
    signatures = sorted({record["evaluation"][name]["signature"] for record in records for name in ("bleu", "chrf")})
    machines = sorted({_machine(record["machine"], words["cores"]) for record in records})
    lines += ["", words["about"], "", f"{words['signatures']}: {', '.join(f'`{each}`' for each in signatures)}."]
    lines += ["", f"{words['machines']}: {'; '.join(machines)}."]
    return "\n".join(lines) + "\n"


def _time(training: dict[str, Any]) -> str:
    if training["minutes"] is None:
        return ""
    threads = training.get("threads")
    return f"{training['minutes']:.0f}" + (f" × {threads}" if threads else "")


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |"


def _cells(record: dict[str, Any]) -> list[str]:
    cells = []
    for name in METRICS:
        found = record["evaluation"][name]
        if found is None or found["score"] is None:
            cells.append("")
            continue
        factor, decimals = (100, 1) if name == "exact_match" else (1, 2 if name == "bits_per_character" else 1)
        score, low, high = (
            "∞" if found[key] is None else f"{found[key] * factor:.{decimals}f}" for key in ("score", "low", "high")
        )
        cells.append(f"{score} [{low}, {high}]")
    return cells


def _machine(machine: dict[str, Any], cores: str) -> str:
    count = f"{machine['cores']} {cores.removesuffix('s') if machine['cores'] == 1 else cores}"
    return f"{machine['gpu'] or machine['cpu']}, {count}, torch {machine['torch']}"


def renewed(text: str, table: str, name: str, start: str = START, end: str = END) -> str:
    """Put a table between the two marks of a README."""
    if text.count(start) != 1 or text.count(end) != 1 or text.index(start) > text.index(end):
        raise TableError(f"{name} must hold the line {start} once and below it {end} once; add them where it belongs.")
    before, rest = text.split(start)
    return f"{before}{start}\n{table}{end}{rest.split(end)[1]}"


def with_speed(text: str, races: Sequence[dict[str, Any]], name: str) -> str:
    """Put the table of speed into a README; one without its marks stays as it is while there is nothing to say."""
    if not races and speed_table.START not in text:
        return text
    table = speed_table.render(races, speed_table.WORDS[name])
    return renewed(text, table, name, speed_table.START, speed_table.END)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="change nothing; fail where a README differs")
    parser.add_argument("--root", type=Path, default=ROOT, help="the repository")
    options = parser.parse_args(argv)
    results = options.root / "benchmarks" / "results"
    records, races = read_results(results), read_races(results)
    status = 0
    for name, words in WORDS.items():
        file = options.root / name
        try:
            old = file.read_text(encoding="utf-8")
            new = with_speed(renewed(old, render(records, words), name), races, name)
        except (OSError, TableError) as error:
            print(error, file=sys.stderr)
            return 2
        if old == new:
            continue
        if options.check:
            print(f"{name} differs from benchmarks/results; run: python benchmarks/table.py", file=sys.stderr)
            status = 1
        else:
            file.write_text(new, encoding="utf-8", newline="\n")
            print(f"{name} renewed")
    return status


if __name__ == "__main__":
    sys.exit(main())
