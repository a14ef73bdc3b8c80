"""`itda demo`: what it promises to a newcomer, in a short form and whole."""

import json
from pathlib import Path
from typing import Any

import pytest
from program import process

MADE = {
    "config.toml",
    "tokenizer",
    "weights.safetensors",
    "metrics.jsonl",
    "run.json",
    "checkpoints",
    "attention.png",
    "learning-curve.png",
}


def demo(run: Path, *words: object) -> tuple[dict[str, Any], str]:
    answer = process("demo", "--run", run, "--threads", 1, "--json", *words, timeout=900)
    assert answer.code == 0, answer.err
    assert {path.name for path in run.iterdir()} >= MADE
    for picture in ("attention.png", "learning-curve.png"):
        data = (run / picture).read_bytes()
        assert data.startswith(b"\x89PNG")
        assert len(data) > 5000
    said = answer.json
    assert {"exact_match", "alignment_error_rate", "train_seconds", "run"} <= said.keys()
    assert said["run"] == str(run)
    assert said["exact_match_low"] <= said["exact_match"] <= said["exact_match_high"]
    return said, answer.err


def test_a_short_demo_leaves_all_files_and_says_what_it_measured(tmp_path: Path) -> None:
    said, text = demo(tmp_path / "첫걸음", "--updates", 60)
    assert said["train_seconds"] > 0
    for words in ("exact match", "alignment error rate", "diagonal", "uniform", "where the model looked", "next:"):
        assert words in text
    assert json.loads((tmp_path / "첫걸음" / "run.json").read_bytes())["update"] == 60


@pytest.mark.long
def test_the_whole_demo_learns_dates_and_looks_at_the_right_place(tmp_path: Path) -> None:
    said, text = demo(tmp_path / "demo")
    assert said["exact_match"] >= 0.99
    assert said["alignment_error_rate"] <= 0.10
    assert said["alignment_error_rate"] < said["alignment_error_rate_diagonal"]
    assert said["alignment_error_rate"] < said["alignment_error_rate_uniform"]
    assert "2024년 3월 5일 화요일  ->  2024-03-05" in text
