"""The demo: train on generated dates, measure on dates never seen, and look where the model looked."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from itda.config import Config, parse
from itda.data.synthetic import Example, make
from itda.errors import ItdaError, UserError
from itda.evaluate.alignment import AlignmentScore, Gold, alignment_error
from itda.evaluate.bootstrap import Estimate, estimate
from itda.evaluate.metrics import text_metrics
from itda.explain.heatmap import heatmap
from itda.run import FACTS, RunFolder
from itda.seq2seq import EOS_NAME, Hypothesis, Seq2Seq

RECIPE = "dates"
SHOWN = ("2024년 3월 5일 화요일", "24. 3. 5.", "March 5th, 2024", "5 Mar 24")


@dataclass(frozen=True)
class DemoResult:
    """What the demo measured on held-out dates, and what it wrote."""

    exact_match: Estimate
    alignment: AlignmentScore
    examples: tuple[tuple[str, Hypothesis], ...]
    picture: Path

    def to_json(self) -> dict[str, Any]:
        """Plain values for --json."""
        return {
            "exact_match": self.exact_match.score,
            "exact_match_low": self.exact_match.low,
            "exact_match_high": self.exact_match.high,
            "alignment_error_rate": self.alignment.error_rate,
            "alignment_error_rate_low": self.alignment.low,
            "alignment_error_rate_high": self.alignment.high,
            "alignment_error_rate_diagonal": self.alignment.diagonal,
            "alignment_error_rate_uniform": self.alignment.uniform,
            "picture": self.picture,
        }


def check_place(path: Path, config: Config) -> bool:
    """Say whether an older run of the demo, of any seed and budget, lies there; refuse to replace any other run."""
    if not (path / FACTS).exists():
        return False
    try:
        old = parse(RunFolder.open(path).read_config())
        free: dict[str, Any] = {name: getattr(config.train, name) for name in ("seed", "updates", "epochs", "minutes")}
        ours = replace(old, train=replace(old.train, **free)) == config
    except ItdaError:
        ours = False  # without its recipe nobody knows whose it is
    if not ours:
        raise UserError(
            f"{path} holds a run that is not the demo's; name another folder with --run, "
            "or begin anew in its place with --overwrite"
        )
    return True


def measure(model: Seq2Seq, folder: Path) -> DemoResult:
    """Measure a model of dates on the test split and draw its attention on a date that we wrote."""
    data = model.config.data
    test = list(make("dates", seed=data.seed, split="test", pairs=0))
    hypotheses = model.generate([example.src for example in test])
    metrics = text_metrics([one.text for one in hypotheses], [example.tgt for example in test])
    exact = estimate([metric for metric in metrics if metric.name == "exact_match"])["exact_match"]
    examples = tuple((text, model.generate([text])[0]) for text in SHOWN)
    picture = folder / "attention.png"
    first = examples[0][1]
    assert first.attention is not None, "the demo's recipe has attention"
    heatmap(first.attention, [*first.src_tokens, EOS_NAME], [*first.tokens, EOS_NAME], picture)
    return DemoResult(exact, alignment(model, test, hypotheses), examples, picture)


def alignment(model: Seq2Seq, test: list[Example], hypotheses: list[Hypothesis]) -> AlignmentScore:
    """Hold the attention against the gold alignment, under forced references: a wrong output has none."""
    weights, gold = [], []
    for example, hypothesis in zip(test, hypotheses, strict=True):
        found = hypothesis if hypothesis.text == example.tgt else model.attention(example.src, example.tgt)
        assert found.attention is not None
        weights.append(found.attention)
        gold.append(Gold.of(example.src, example.tgt, example.alignment, example.possible))
    return alignment_error(weights, gold)
