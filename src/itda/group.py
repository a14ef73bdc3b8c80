"""A group of runs: one recipe trained with several seeds, each a full run folder below one folder.

seed-1/  seed-2/ ...   run folders
group.json             the seeds
evaluation.json        what the runs measured together, as soon as all of them are done
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from itda import durable
from itda.config.fields import MOST_SEED
from itda.errors import DamagedFileError, UserError
from itda.run import FACTS, RunFolder

GROUP, EVALUATION, SEED = "group.json", "evaluation.json", "seed-"
FORMAT = 1
MIGRATIONS: dict[int, durable.Migration] = {}
MOST_SEEDS = 1000


@dataclass(frozen=True)
class Group:
    """The folder of a group and its seeds, in the order in which they are trained."""

    path: Path
    seeds: tuple[int, ...]

    @property
    def runs(self) -> list[Path]:
        """The run folder of each seed."""
        return [self.run(seed) for seed in self.seeds]

    def run(self, seed: int) -> Path:
        """The run folder of a seed."""
        return self.path / f"{SEED}{seed}"

    @classmethod
    def open(cls, path: Path) -> Group:
        """Open a group; raise UserError where `path` holds none."""
        file = path / GROUP
        if not file.is_file():
            raise UserError(f"{path} is no group of runs: {GROUP} is missing; `itda train RECIPE --seeds 3` makes one")
        try:
            body = durable.migrate(json.loads(durable.read(file)), file, FORMAT, MIGRATIONS)
            return cls(path, tuple(map(int, body["seeds"])))
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedFileError(f"{file} is damaged ({error!r}); copy the group again") from error

    @classmethod
    def claim(cls, path: Path, seeds: tuple[int, ...], *, resume: bool = False, overwrite: bool = False) -> Group:
        """Make sure that a group of these seeds may be trained at `path`; nothing is changed yet.

        A resume may add seeds, and leaves none out.
        """
        if (path / FACTS).exists() or (path.exists() and not path.is_dir()):
            raise UserError(f"{path} is a run or a file, and --seeds makes a folder of runs; name another with --run")
        if is_group(path):
            old = cls.open(path).seeds
            if not (resume or overwrite):
                raise UserError(
                    f"{path} already holds the runs of seeds {listed(old)}; go on with --resume, begin anew with "
                    "--overwrite, or name another folder with --run"
                )
            if resume and not set(old) <= set(seeds):
                raise UserError(
                    f"{path} was begun with seeds {listed(old)}, and --seeds names {listed(seeds)}; name those too"
                )
        elif path.is_dir() and any(not entry.name.startswith(SEED) for entry in path.iterdir()):
            raise UserError(
                f"{path} holds other files and no group; it is never overwritten: name another folder with --run"
            )
        return cls(path, seeds)

    def clear(self, kept: int) -> None:
        """Remove what an older group left here, but for the run of one seed; raise UserError where one is in use."""
        old = [
            path for path in sorted(self.path.glob(f"{SEED}*")) if (path / FACTS).exists() and path != self.run(kept)
        ]
        for path in old:
            RunFolder.claim(path, overwrite=True).close()  # whoever trains in it holds its lock
        durable.remove_whole([*(path for path in (self.path / EVALUATION,) if path.exists()), *old])

    def write(self) -> None:
        """Write group.json, where it is not there with these seeds already."""
        if not is_group(self.path) or Group.open(self.path).seeds != self.seeds:
            durable.write_json(self.path / GROUP, {"format": FORMAT, "seeds": list(self.seeds)})

    def write_evaluation(self, found: dict[str, Any]) -> None:
        """Write what the runs measured together."""
        durable.write_json(self.path / EVALUATION, found)


def is_group(path: Path) -> bool:
    """Say whether a folder holds a group of runs."""
    return (path / GROUP).is_file()


def runs_of(path: Path) -> list[Path]:
    """List the runs of a group; a run folder is a group of one."""
    return Group.open(path).runs if is_group(path) else [path]


def parse_seeds(text: str) -> tuple[int, ...]:
    """Read "3" as seeds 1, 2, 3 and "1,2,5" as these; UserError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    try:
        numbers = [int(part) for part in parts]
    except ValueError:
        numbers = []
    seeds = tuple(range(1, numbers[0] + 1) if len(numbers) == 1 and 0 < numbers[0] <= MOST_SEEDS else numbers)
    fine = all(0 <= seed <= MOST_SEED for seed in seeds) and len(seeds) == len(set(seeds))
    if not seeds or not fine or (len(parts) == 1 and len(seeds) != numbers[0]) or len(seeds) > MOST_SEEDS:
        raise UserError(
            f"--seeds is {text}; it must be a count, such as 3 (up to {MOST_SEEDS}), or different seeds, such as 1,2,5"
        )
    return seeds


def listed(seeds: Iterable[int]) -> str:
    """Write seeds for a message."""
    return ", ".join(map(str, seeds))
