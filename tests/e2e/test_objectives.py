"""What guided alignment is for, on a toy: attention that finds the gold alignment sooner."""

from pathlib import Path

import pytest

import itda
from itda.data.synthetic import make, write
from itda.evaluate.alignment import Gold, alignment_error
from itda.training.loop import UpdateReport

DATES = [
    "data.pairs=2000", "data.valid=", "data.test=", "train.metric=loss", "model.embedding_dim=32",
    "model.encoder.dim=64", "model.decoder.dim=64", "model.attention.dim=32", "train.batch=16", "train.warmup=10",
    "train.schedule=constant", "train.learning_rate=0.008",
]  # fmt: skip


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("itda.training.entry.draw_curve", lambda run: None)
    monkeypatch.chdir(tmp_path)


def error_rate(model: itda.Seq2Seq) -> float:
    """AER of attention on test dates, under teacher forcing."""
    examples = list(make("dates", split="test", pairs=60))
    gold = [Gold.of(one.src, one.tgt, one.alignment, one.possible) for one in examples]
    weights = [model.attention(one.src, one.tgt).attention for one in examples]
    return alignment_error(weights, gold, resamples=1).error_rate


def test_guided_attention_finds_the_gold_alignment_sooner(tmp_path: Path) -> None:
    """After the same few updates from the same weights; its links are read from the files of `itda data make`."""
    write("dates", tmp_path / "corpus", pairs={"train": 2000, "valid": 1, "test": 1})
    settings = [*DATES, f"data.train={tmp_path / 'corpus' / 'train.tsv'}", "data.pairs=0"]
    guided = [
        *settings,
        f"data.alignments={tmp_path / 'corpus' / 'train.align'}",
        "data.alignment_unit=characters",
        "train.guided_alignment.weight=1",
    ]
    reports: list[UpdateReport] = []
    plain = error_rate(itda.train("dates", *settings, run="plain", updates=140))
    taught = error_rate(itda.train("dates", *guided, run="guided", updates=140, on_report=reports.append))
    assert taught < 0.3 < 0.6 < plain
    updates = [one for one in reports if isinstance(one, UpdateReport)]
    assert updates[-1].parts["alignment"] < 0.5 * updates[0].parts["alignment"]
    assert updates[-1].loss == pytest.approx(updates[-1].nll + updates[-1].parts["alignment"], rel=1e-4)
