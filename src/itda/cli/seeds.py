"""What `itda train --seeds` and `itda evaluate GROUP` share: several runs of one recipe, seen as one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from itda.cli.output import console, emit, say

if TYPE_CHECKING:
    import torch

    from itda.config import Config
    from itda.evaluate.group import GroupEvaluation
    from itda.training.session import Session


def train_all(
    config: Config,
    path: Path,
    seeds: str,
    again: str,
    follow: Callable[[Session], bool],
    device: torch.device,
    resume: bool,
    overwrite: bool,
    json: bool,
) -> None:
    """Train a group, then say what its runs measured; `again` is the line that goes on where Ctrl-C ended it."""
    from itda.evaluate.seed_tables import aggregate_table
    from itda.group import Group, parse_seeds
    from itda.training.seeds import conclude, train_group

    def one(seed: int, session: Session) -> bool:
        say(f"seed {seed}, {session.run.path}")
        return follow(session)

    group = Group.claim(path, parse_seeds(seeds), resume=resume, overwrite=overwrite)
    stopped = train_group(config, group, one, resume=resume, overwrite=overwrite, device=device)
    if stopped is not None:
        say(f"saved within seed {stopped}; go on with: {again}")
        raise typer.Exit(130)
    result = conclude(config, group, device, say)
    if json:
        emit({"run": path, **result.to_json()})
        return
    if result.validation:
        console().print(aggregate_table("validation pairs", result.validation, group.seeds))
    if result.test:
        console().print(aggregate_table(measured_on(result.test), result.test.found, group.seeds))
    say(f"the runs are in {path}")


def evaluate_all(
    run: Path,
    pairs: str,
    compare: Path | None,
    beam: int | None,
    tokenize: str | None,
    resamples: int,
    seed: int,
    device: torch.device,
    json: bool,
) -> None:
    """Measure each run of a group and aggregate; with `compare`, test it against another group (or run)."""
    from itda.evaluate.group import evaluate_group
    from itda.evaluate.seed_tables import aggregate_table, group_comparison_table
    from itda.evaluate.seeds import compare_groups
    from itda.group import runs_of

    settings: dict[str, Any] = {"beam": beam, "tokenize": tokenize, "device": device, "say": say}
    mine = evaluate_group(runs_of(run), pairs, **settings)
    answer: dict[str, Any] = {"run": run, **mine.to_json()}
    tables = [aggregate_table(measured_on(mine), mine.found, names_of(run))]
    if compare is not None:
        theirs = evaluate_group(runs_of(compare), pairs, first=runs_of(run)[0], **settings)
        found = compare_groups(mine.systems, theirs.systems, resamples=resamples, seed=seed)
        answer["compare"] = {
            "run": compare,
            **theirs.to_json(),
            "method": "bootstrap over seeds and sentences (Owen 2007); Welch's t-test over seeds",
            "resamples": resamples,
            "seed": seed,
            "differences": {name: one.to_json() for name, one in found.items()},
        }
        tables.append(aggregate_table(str(compare), theirs.found, names_of(compare)))
        tables.append(group_comparison_table(found, run.name, compare.name, resamples, seed))
    if json:
        emit(answer)
        return
    for table in tables:
        console().print(table)


def measured_on(found: GroupEvaluation) -> str:
    """Name the test set."""
    return f"{found.pairs}, {found.sentences} sentences"


def names_of(path: Path) -> list[str]:
    """Name the columns of a group's table."""
    from itda.group import runs_of

    return [one.name.removeprefix("seed-") for one in runs_of(path)]
