"""How a row stands: what its result says in a line of a table, and whether the bar is cleared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

OURS = "itda"
NAMES = {
    "opennmt": "OpenNMT-py",
    "joeynmt": "JoeyNMT",
    "huggingface": "transformers",
    "ctranslate2": "CTranslate2",
    "classroom": "step by step",
}


@dataclass(frozen=True)
class Standing:
    """A comparison of one row: ours against the fastest of its peers, or against one with the same weights."""

    title: str
    unit: str
    ours: float
    peer: str
    theirs: float
    ratio: float
    low: float
    high: float
    rounds: int
    bar: float
    share: float | None
    memory: float
    leanest: float

    @property
    def cleared(self) -> bool:
        """Say whether the bar is reached."""
        return self.ratio >= self.bar


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Read the results of races, in the order of their names."""
    found = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("speed-*.json"))]
    return [record for record in found if record.get("kind") == "speed"]


def standings(record: Mapping[str, Any]) -> list[Standing]:
    """Lay out a result: first against the fastest peer, then against each that ran our own weights."""
    same = [name for name in record["same_model"] if name in record["ratios"]]
    peers = [name for name in record["ratios"] if name not in same]
    found = []
    if peers:
        fastest = max(peers, key=lambda name: their_speed(record, name))
        found.append(_against(record, fastest, peers, record["bar"]))
    return [*found, *(_against(record, name, [name], record["same_bar"]) for name in same)]


def their_speed(record: Mapping[str, Any], name: str) -> float:
    """Give a peer's speed: in the race, or by its own command line where that is quicker."""
    own = record.get("own_commands", {}).get(name) or {}
    return max(record["sides"][name]["speed"], own.get("speed") or 0.0)


def _against(record: Mapping[str, Any], name: str, peers: Sequence[str], bar: float) -> Standing:
    sides, found = record["sides"], record["ratios"][name]
    ours, raced = sides[OURS], sides[name]["speed"]
    slower = raced / their_speed(record, name)  # 1, or less where its own command line was quicker
    limit = record.get("limit") or {}
    return Standing(
        record["title"],
        record["unit"],
        ours["speed"],
        name,
        their_speed(record, name),
        found["median"] * slower,
        found["min"] * slower,
        found["max"] * slower,
        found["rounds"],
        bar,
        limit.get("share"),
        ours["peak_memory_mib"],
        min(sides[peer]["peak_memory_mib"] for peer in peers),
    )
