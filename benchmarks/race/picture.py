"""The picture of all races: a bar for each row, how many times as fast as the fastest peer, with its bar to clear."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itda.explain import fonts, picture
from race.standing import NAMES, standings


def draw(records: Sequence[Mapping[str, Any]], path: Path) -> Path:
    """Draw the ratio of each comparison with the range of its rounds, and the mark that it must reach."""
    raced = sorted((record for record in records if "ratios" in record), key=lambda record: record["place"])
    found = [each for record in raced for each in standings(record)]
    with fonts.drawing():
        from matplotlib.figure import Figure

        figure = Figure(figsize=(7.2, 0.9 + 0.34 * len(found)), layout="constrained")
        axes = figure.subplots()
        for place, each in enumerate(found):
            colour = picture.ACCENT if each.cleared else picture.SECOND
            axes.barh(place, each.ratio, color=colour, height=0.62)
            axes.plot([each.low, each.high], [place, place], color=picture.INK, linewidth=1)
            if each.bar:
                axes.plot([each.bar, each.bar], [place - 0.42, place + 0.42], color=picture.INK, linewidth=2)
        labels = [f"{each.title} ({NAMES.get(each.peer, each.peer)})" for each in found]
        axes.set_yticks(range(len(found)), labels, fontsize=8)
        axes.invert_yaxis()
        axes.axvline(1.0, color=picture.FAINT, linewidth=1)
        axes.set_xlabel("times as fast as the fastest peer; the upright mark is the bar")
        axes.spines[["top", "right"]].set_visible(False)
        return picture.save(figure, path)
