"""Race itda against its peers, row by row of the speed table, and write results/speed-*.json, the table, a picture.

python benchmarks/speed.py --peers                      # all rows against all peers; the first run installs them
python benchmarks/speed.py --peers --rows train-rnn decode-tiny-5 --rounds 5
python benchmarks/speed.py                              # our side alone, with its share of the machine's limit
python benchmarks/table.py

All sides train on the same batches (where a row says otherwise, on batches of as many sentences) and decode the same
sources; each run is a process of its own, sides take turns, and a ratio is taken within a round. The corpus is found
under ITDA_DATA. A peer that cannot be installed, or that fails, is named in the result.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from machine import ROOT, circumstances
from race.commands import COMMANDS, own_command
from race.environments import RECIPES, NotInstalled, default_folder, install, versions
from race.picture import draw
from race.prepared import Prepared, prepare
from race.rows import ROWS, TRAINING_FIRST, Row, chosen
from race.standing import read_results
from race.startup import startup
from race.turns import OURS, Side, SideFailed, our_side, ratios, summary, take_turns

from itda.errors import ItdaError

FORMAT = 1
STARTUP = "startup"
RESULTS = ROOT / "benchmarks" / "results"


def tell(line: str) -> None:
    """Say at once what happens: a row takes minutes."""
    print(line, flush=True)


def job_for(row: Row, prepared: Prepared) -> dict[str, Any]:
    """Write the job that every side of a row gets."""
    job = {"work": row.work, "model": row.model, "vocab_size": prepared.vocab_size, **row.settings}
    if row.work == "training":
        count = row.settings["warm"] + row.settings["updates"]
        job["batches"] = str(prepared.batches(row.settings["batch"], row.settings["batch_unit"], count))
    if row.work == "decoding":
        job["sources"] = str(prepared.sources(row.settings["sentences"]))
        if row.same_model:
            job["weights"] = str(prepared.folder / f"{row.name}.npz")
    return job


@functools.cache
def find_side(name: str, environments: Path, through: tuple[str, ...]) -> tuple[Side, dict[str, str]]:
    """Give a side and what its environment holds; a peer is installed where it is not yet."""
    if name not in RECIPES:
        return our_side(name, through), {}
    tell(f"  {name}: {environments / name}")
    python = install(name, environments)
    return Side(name, python, dict(RECIPES[name].variables), through), versions(python)


def race(row: Row, prepared: Prepared, options: argparse.Namespace) -> dict[str, Any]:
    """Run a row: our side and its peers in turn, then our side once more under the recorder of products."""
    tell(f"{row.name}: {row.title}")
    job, through = job_for(row, prepared), tuple(options.through.split())
    sides, missing, held = {OURS: our_side(OURS, through)}, {}, {}
    wanted = [*row.peers, *row.same_model] if options.peers else []
    for name in wanted:
        if options.only and name not in options.only:
            missing[name] = "not asked for"
            continue
        try:
            sides[name], held[name] = find_side(name, options.environments, through)
        except NotInstalled as error:
            missing[name] = str(error)
            tell(f"  {error}")
    expected = sides[OURS].run(job | {"work": "export"}, options.threads)["outputs"] if row.same_model else []
    if "needs" in row.settings:
        missing |= train_first(row, sides, prepared, options)

    def run(name: str) -> dict[str, Any]:
        more = {"trained": str(trained_file(row, name, options))} if "needs" in row.settings else {}
        if row.draws and name != OURS:
            count = row.settings["warm"] + row.settings["updates"]
            more["batches"] = str(prepared.drawn(row.settings["batch"], count))
        return sides[name].run(job | more, options.threads)

    results, failed = take_turns(list(sides), options.rounds, run, tell)
    if OURS in failed:
        raise SideFailed(failed[OURS])
    compared = {name: ratios(results[OURS], results[name]) for name in sides if name != OURS}
    record = {
        "kind": "speed",
        "format": FORMAT,
        "row": row.name,
        "place": ROWS.index(row),
        "title": row.title,
        "unit": row.unit,
        "bar": row.bar,
        "mark": row.mark,
        "same_bar": row.same_bar,
        "same_model": list(row.same_model),
        "work": {**row.settings, "model": row.model, "vocab_size": prepared.vocab_size, "threads": options.threads},
        "sides": {name: summary(runs) for name, runs in results.items()},
        "ratios": {name: found for name, found in compared.items() if found},
        "same_outputs": {name: same_outputs(expected, results.get(name, [])) for name in row.same_model},
        "missing": missing | failed,
        "versions": held,
    }
    if options.own_commands and row.work == "training":
        record["own_commands"] = own_commands(sides, job, prepared, options.threads)
    if row.work != "lecture":
        own = {"trained": str(trained_file(row, OURS, options))} if "needs" in row.settings else {}
        record["limit"] = limit(sides[OURS], job | own, record["sides"][OURS], options)
    return record | circumstances()


def trained_file(row: Row, name: str, options: argparse.Namespace) -> Path:
    """Name the file with the weights that a side has trained for a row."""
    file: Path = options.trained / f"{name}-{row.settings['needs']}-{options.train_updates}.weights"
    return file.resolve()


def train_first(row: Row, sides: dict[str, Side], prepared: Prepared, options: argparse.Namespace) -> dict[str, str]:
    """Let each side train its model where there is none yet; a side that fails leaves the race, and why is given."""
    options.trained.mkdir(parents=True, exist_ok=True)
    batches = prepared.batches(TRAINING_FIRST["batch"], TRAINING_FIRST["batch_unit"], options.train_updates)
    job = {"work": "training", "model": row.model, "vocab_size": prepared.vocab_size, "batches": str(batches)}
    failed = {}
    for name, side in list(sides.items()):
        file = trained_file(row, name, options)
        if file.exists():
            continue
        tell(f"  {name} trains for {options.train_updates} updates")
        try:
            side.run(job | TRAINING_FIRST | {"save": str(file)}, options.threads, tries=1)
        except (SideFailed, subprocess.TimeoutExpired) as error:
            failed[name] = str(error)
            sides.pop(name)
    return failed


def own_commands(sides: dict[str, Side], job: dict[str, Any], prepared: Prepared, threads: int) -> dict[str, Any]:
    """Run the peers' own command lines once; what fails is said in the result."""
    found: dict[str, Any] = {}
    for name in sorted(set(sides) & set(COMMANDS)):
        try:
            found[name] = own_command(name, sides[name], job, prepared, threads)
            tell(f"  {name}'s own command line: {found[name]['speed']:.4g}")
        except (SideFailed, subprocess.TimeoutExpired) as error:
            found[name] = {"speed": None, "failed": str(error)}
            tell(f"  {error}")
    return found


def same_outputs(ours: Sequence[list[int]], theirs: Sequence[dict[str, Any] | None]) -> float | None:
    """Compute the share of outputs that are the same where both run the same model."""
    found = next((each["outputs"] for each in theirs if each), None)
    return None if found is None else sum(map(list.__eq__, ours, found)) / len(ours)


def limit(side: Side, job: dict[str, Any], ours: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    """Measure what the products of our side take at the machine's best rate for their shapes, and the share reached."""
    found = side.run(job | {"record": True}, options.threads)
    names = ("limit_seconds", "operations", "products", "shapes", "largest")
    seconds = sorted(sum(laps) for laps in ours["seconds"])
    share = found["limit_seconds"] / seconds[len(seconds) // 2]
    tell(f"  limit {found['limit_seconds']:.3f} s, share {share:.1%}")
    return {name: found[name] for name in names} | {"share": round(share, 4)}


def save(record: dict[str, Any], folder: Path) -> None:
    """Write a result."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False)
    (folder / f"speed-{record['row']}.json").write_text(text + "\n", encoding="utf-8", newline="\n")


def write(record: dict[str, Any], folder: Path) -> None:
    """Write a result, and say it in a line."""
    save(record, folder)
    for name, found in record["ratios"].items():
        tell(f"  {found['median']:.2f} x {name} [{found['min']:.2f}, {found['max']:.2f}]")


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", action="store_true", help="race the peers too, installing those that are not yet")
    parser.add_argument("--only", nargs="+", default=[], metavar="PEER", help="only these peers")
    parser.add_argument("--rows", nargs="+", default=[], metavar="ROW", help="only rows with these names or beginnings")
    parser.add_argument("--own-commands", action="store_true", help="run the peers' own training commands too, once")
    parser.add_argument("--rounds", type=int, default=3, help="how often each side runs")
    parser.add_argument("--threads", type=int, default=2, help="threads of each process")
    parser.add_argument("--environments", type=Path, default=default_folder(), help="folder of the peers' environments")
    parser.add_argument("--work", type=Path, help="folder of the prepared data; default: beside the environments")
    parser.add_argument("--trained", type=Path, help="folder of trained weights, made where missing (trained-... rows)")
    parser.add_argument("--train-updates", type=int, default=600, help="how long each side trains for these rows")
    parser.add_argument("--through", default="", help="a command in front of each measured process, such as a lock")
    parser.add_argument("--picture", type=Path, help="draw all races of the results folder here")
    parser.add_argument("--results", type=Path, default=RESULTS, help="where the JSON goes")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    options = arguments(argv)
    options.environments = options.environments.resolve()
    work = (options.work or options.environments / "work").resolve()
    status = 0
    try:
        rows = chosen([name for name in options.rows if name != STARTUP]) if options.rows != [STARTUP] else []
        os.environ["OMP_NUM_THREADS"] = str(options.threads)
        prepared = prepare(work)
    except (ItdaError, ValueError) as error:
        print(error, file=sys.stderr)
        return 2
    for row in rows:
        if "needs" in row.settings and not options.trained:
            tell(f"{row.name} is left out: it needs --trained FOLDER")
            continue
        try:
            write(race(row, prepared, options), options.results)
        except SideFailed as error:
            print(f"{row.name}: {error}", file=sys.stderr)
            status = 1
    if STARTUP in options.rows or not options.rows:
        record = startup(options.threads, tuple(options.through.split())) | {"format": FORMAT} | circumstances()
        save(record, options.results)
    if options.picture:
        tell(str(draw(read_results(options.results), options.picture)))
    return status


if __name__ == "__main__":
    sys.exit(main())
