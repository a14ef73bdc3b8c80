"""`itda demo` replaces an older run of its own, and no other."""

from pathlib import Path

import pytest
import torch

from itda.cli import main as frame
from itda.config import Config, dumps, load
from itda.demo import RECIPE, check_place
from itda.errors import UserError
from itda.run import RunFolder


def finished(path: Path, config: Config) -> Path:
    """A run with weights, of a recipe."""
    with RunFolder.create(path) as run:
        run.write_config(dumps(config))
        run.finish({"w": torch.ones(2)}, update=5)
    return path


def tree(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir()}


def test_an_older_demo_is_replaced_whatever_its_seed_and_budget(tmp_path: Path) -> None:
    old = finished(tmp_path / "run", load(RECIPE, ["train.seed=9"], updates=3))
    assert check_place(old, load(RECIPE))
    assert not check_place(tmp_path / "new", load(RECIPE))


@pytest.mark.parametrize("other", ["reverse", "larger dates", "damaged"])
def test_any_other_run_is_left_whole(other: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load(RECIPE, ["model.encoder.dim=512"]) if other == "larger dates" else load("reverse")
    path = finished(tmp_path / "run", config)
    if other == "damaged":
        (path / "config.toml").write_text("")
    before = tree(path)
    assert frame.run(["demo", "--run", str(path), "--updates", "1"]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("itda: ")]
    assert "--overwrite" in line
    assert tree(path) == before
    with pytest.raises(UserError, match="not the demo's"):
        check_place(path, load(RECIPE))


def test_with_overwrite_any_run_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = finished(tmp_path / "run", load("reverse"))
    asked = []

    def opened(config: Config, path: Path, **settings: object) -> None:
        asked.append(settings["overwrite"])
        raise UserError("enough")

    monkeypatch.setattr("itda.training.session.open_session", opened)
    assert frame.run(["demo", "--run", str(path), "--overwrite"]) == 2
    assert frame.run(["demo", "--run", str(tmp_path / "new")]) == 2
    assert asked == [True, False]
