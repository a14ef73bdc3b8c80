"""A group of runs measured on one test set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from itda.errors import UserError
from itda.evaluate.bootstrap import CONFIDENCE
from itda.evaluate.metrics import Metric
from itda.evaluate.seeds import Aggregate, aggregate, aggregates, metrics_of
from itda.evaluate.systems import Say, config_of, corpus_of, outputs, read_corpus
from itda.run import RunFolder
from itda.seq2seq import Seq2Seq


@dataclass(frozen=True)
class GroupEvaluation:
    """What the runs of a group measured; `systems` holds the metrics of each run, for a comparison."""

    runs: tuple[str, ...]
    pairs: str
    sentences: int
    beam_size: int
    confidence: float
    found: dict[str, Aggregate]
    systems: tuple[tuple[Metric, ...], ...]

    def to_json(self) -> dict[str, Any]:
        """Give everything but the sentences' own numbers as plain values."""
        return {
            "runs": list(self.runs),
            "pairs": self.pairs,
            "sentences": self.sentences,
            "beam_size": self.beam_size,
            "confidence": self.confidence,
            "metrics": {name: one.to_json() for name, one in self.found.items()},
        }


def evaluate_group(
    runs: Sequence[Path],
    pairs: str = "",
    *,
    first: Path | None = None,
    beam: int | None = None,
    tokenize: str | None = None,
    confidence: float = CONFIDENCE,
    device: str | torch.device = "cpu",
    say: Say = lambda text: None,
) -> GroupEvaluation:
    """Measure each run, one model in memory at a time, and aggregate.

    The pairs are `pairs`, or the data.test of the run `first` (of the first of `runs`, where none is named).
    """
    chosen = config_of(first or runs[0])
    files = corpus_of(chosen, first or runs[0], pairs)
    found = read_corpus(files, chosen.data.swap, say)
    systems = []
    for path in runs:
        model = Seq2Seq.load(path, device)
        if model.config.data.swap != chosen.data.swap:
            raise UserError(
                f"data.swap is {str(chosen.data.swap).lower()} in {first or runs[0]} and not in {path}, so one reads "
                "what the other writes; measure runs of one direction together"
            )
        systems.append(tuple(metrics_of(outputs(model, found, beam, say), [tgt for _, tgt in found], tokenize)))
    return GroupEvaluation(
        tuple(path.name for path in runs),
        files.name,
        len(found),
        beam or model.config.decode.beam_size,
        confidence,
        aggregates(systems, confidence),
        tuple(systems),
    )


def validation_aggregates(runs: Sequence[Path], confidence: float = CONFIDENCE) -> dict[str, Aggregate]:
    """Aggregate what the final weights of each run measured on its validation pairs."""
    finals = [RunFolder.open(path).facts.get("final") or {} for path in runs]
    names = [name for name in finals[0] if all(name in final for final in finals)]
    return {name: aggregate([float(final[name]) for final in finals], confidence) for name in names}
