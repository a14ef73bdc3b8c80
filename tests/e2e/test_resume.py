"""A training that is killed at any moment and resumed ends as if nothing had happened: the whole folder is the same."""

import importlib.util
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

import kill_resume  # noqa: E402
from kill_resume import Trainer, asked, check, compare, kill, kill_and_compare, random_moments, summary  # noqa: E402

ROOT = HERE.parent.parent
REVERSE = str(ROOT / "recipes" / "reverse.toml")
SMALL = [
    "data.pairs=400",
    "model.embedding_dim=16",
    "model.encoder.dim=16",
    "model.decoder.dim=16",
    "model.attention.dim=16",
    "train.batch=16",
    "train.metric=loss",
]
TOY = (sys.executable, str(HERE / "toy_train.py"))

needs_kill = pytest.mark.skipif(os.name == "nt", reason="SIGKILL and process groups are POSIX")
needs_train = pytest.mark.skipif(
    importlib.util.find_spec("itda.cli") is None or not Path(REVERSE).exists(), reason="no command line or recipe here"
)
pytestmark = needs_kill


def test_the_line_that_is_run_by_hand_is_read() -> None:
    """Overrides after the options too, as the driver's own description has them."""
    line = next(line for line in str(kill_resume.__doc__).splitlines() if line.startswith("By hand: "))
    read = asked(line.partition("kill_resume.py ")[2].split())
    assert (read.recipe, read.overrides, read.kills) == ("recipes/reverse.toml", ["train.updates=200"], 20)


def test_the_toy_survives_kills(tmp_path: Path):
    done = kill_and_compare("toy", ["updates=200"], tmp_path, ["checkpoint", "saving"], seed=3, command=TOY)
    assert done[0].checkpoints, "there was something to go on from"


@pytest.mark.long
def test_the_toy_survives_many_kills(tmp_path: Path):
    done = kill_and_compare("toy", ["updates=1500"], tmp_path, random_moments(40, seed=1), seed=1, command=TOY)
    print(summary(done))
    assert any(fell.temporary for fell in done), "some of the kills hit a save"
    assert any(fell.checkpoints for fell in done)


@pytest.mark.parametrize("forgotten", ["optimizer", "metrics"])
def test_a_resume_that_forgets_something_is_caught(forgotten: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    whole, broken = (Trainer("toy", ["updates=55"], tmp_path / name, TOY) for name in ("whole", "broken"))
    whole.finish()
    process = broken.start()
    while process.poll() is None and not (broken.run / "checkpoints" / "00000020").exists():
        time.sleep(0.002)
    time.sleep(0.02)
    kill(process)
    monkeypatch.setenv("FORGET", forgotten)
    broken.finish("--resume")
    with pytest.raises(AssertionError, match="ended differently") as caught:
        check(broken, whole.run)
    assert ("weights.safetensors" if forgotten == "optimizer" else "metrics.jsonl: ") in str(caught.value)


def test_differences_are_found_and_times_are_not_differences(tmp_path: Path):
    for name, seconds, loss in (("a", 1, 0.5), ("b", 2, 0.5), ("c", 1, 0.25)):
        (tmp_path / name).mkdir()
        lines = [{"update": 1, "loss": 1, "seconds": seconds}, {"update": 2, "loss": loss, "seconds": seconds}]
        (tmp_path / name / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        (tmp_path / name / "run.json").write_text(json.dumps({"best": loss, "final": {"minutes": seconds}}))
        (tmp_path / name / "curve.png").write_text(str(seconds))
    assert compare(tmp_path / "a", tmp_path / "b") == []
    assert compare(tmp_path / "a", tmp_path / "c") == [
        "metrics.jsonl: 1: loss: 0.5 and 0.25",
        "run.json: best: 0.5 and 0.25",
    ]
    (tmp_path / "b" / "checkpoints" / ".tmp-1").mkdir(parents=True)
    (tmp_path / "b" / "curve.png").unlink()
    assert len(compare(tmp_path / "a", tmp_path / "b")) == 3


@needs_train
def test_a_training_survives_two_kills(tmp_path: Path):
    overrides = [*SMALL, "train.updates=150", "train.validate_every=15"]
    done = kill_and_compare(REVERSE, overrides, tmp_path, ["checkpoint", "start"], seed=5)
    assert done[0].checkpoints, "there was something to go on from"


@needs_train
def test_ctrl_c_saves_and_resuming_goes_on_exactly(tmp_path: Path):
    overrides = [*SMALL, "train.updates=200", "train.validate_every=40"]
    whole, stopped = (Trainer(REVERSE, overrides, tmp_path / name) for name in ("whole", "stopped"))
    whole.finish()
    process = stopped.start()
    log = stopped.run / "metrics.jsonl"
    while process.poll() is None and (not log.exists() or log.read_bytes().count(b"\n") < 10):
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    stopped.expect(process.wait(120), 130)
    assert "--resume" in (stopped.room / "log.txt").read_text(encoding="utf-8")
    stopped.finish("--resume")
    check(stopped, whole.run)


@needs_train
@pytest.mark.long
def test_a_training_survives_twenty_kills(tmp_path: Path):
    overrides = [*SMALL, "train.updates=600", "train.validate_every=25", "train.average=3", "train.accumulate=2"]
    done = kill_and_compare(REVERSE, overrides, tmp_path, random_moments(20, seed=1), seed=1)
    print(summary(done))
    assert len(done) >= 20
    assert any(fell.temporary for fell in done), "some of the kills hit a save"
