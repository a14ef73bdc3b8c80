"""Faults that a review found once, each held by a test."""

import subprocess
import sys

import pytest

import itda
from itda.decode.writer import one_line
from itda.errors import ItdaError
from itda.text.vocabulary import ListTokenizer
from itda.training.checkpoint import Keep

TINY = (
    "model.embedding_dim=8",
    "model.encoder.dim=8",
    "model.decoder.dim=8",
    "model.attention.dim=8",
    "train.batch=4",
    "train.warmup=0",
)
PAIRS = [("ab", "ba"), ("cd", "dc"), ("abc", "cba"), ("da", "ad")]


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))


def test_an_interruption_takes_no_place_of_a_checkpoint_to_be_averaged():
    keep = Keep(last=1, average=3, off_schedule=frozenset({39}))
    assert keep.kept([10, 20, 30, 39], 39) == {10, 20, 30, 39}
    assert keep.kept([10, 20, 30, 39, 40], 40) == {20, 30, 40}


def test_a_run_interrupted_past_its_new_budget_still_finishes(tmp_path):
    options = (*TINY, "train.average=3", "train.validate_every=2")
    run = tmp_path / "run"

    def interrupt(report):
        if getattr(report, "step", 0) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        itda.fit(PAIRS, *options, valid=PAIRS[:2], run=run, updates=100, on_report=interrupt)
    model = itda.fit(PAIRS, *options, valid=PAIRS[:2], run=run, updates=6, resume=True)
    assert model.generate(["ab"])


def test_a_line_stays_a_line():
    assert one_line("a\nb\r\nc\u2028d") == "a b  c\u2028d"


def test_a_surface_is_text_not_a_mark():
    characters = ListTokenizer("characters", "nfc", ("a", "b"))
    assert characters.surfaces("a b") == ["a", " ", "b"]


def test_divergence_stops_with_a_reason(tmp_path):
    with pytest.raises(ItdaError, match=r"training diverged at update \d+"):
        itda.fit(
            PAIRS,
            *TINY,
            "train.optimizer=adamw",  # each update multiplies the weights by 1 - 1000
            "train.learning_rate=1000",
            "train.weight_decay=1",
            "train.schedule=constant",
            run=tmp_path / "r",
            updates=50,
        )


WRONG_TYPES = """
import itda
from itda.errors import UserError

def refused(call, *words):
    try:
        call()
    except UserError as error:
        assert all(word in str(error) for word in words), error
    else:
        raise AssertionError(words)

for pairs in ({"ab": "x"}, ["ab", "cd"], "ab", [("a", "b", "c")], [1, 2], [], None):
    refused(lambda: itda.fit(pairs, updates=1), "pairs")
model = itda.fit([("ab", "ba")], "model.encoder.dim=8", "model.decoder.dim=8", run="r", updates=1)
for wrong in ([1], [None], [b"abc"]):
    refused(lambda: model.generate(wrong), "text 1 is")
for wrong in (["ab"], [("a",)], [(1, 2)]):
    refused(lambda: model.score(wrong), "pair 1 is")
refused(lambda: model.score([("a", "b")], batch_size=0), "batch_size is 0")
refused(lambda: model.generate(["a"], n_best="2"), "n_best is '2'")
refused(lambda: itda.load("r", device="abacus"), "device is abacus")
refused(lambda: itda.train("reverse", resume=True, overwrite=True), "resume", "overwrite")
"""


def test_wrong_types_are_named(tmp_path):
    # in a process of its own: in this one beartype would answer first
    done = subprocess.run(
        [sys.executable, "-c", WRONG_TYPES], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
