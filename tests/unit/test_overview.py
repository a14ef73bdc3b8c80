"""`itda runs`: each run folder in one line, and the settings in which runs differ."""

from __future__ import annotations

import json
from pathlib import Path

from itda.cli import main as frame
from itda.config import dumps, parse
from itda.overview import differences, list_runs
from itda.run import RunFolder

BEST = {"metric": "bleu", "value": 12.25, "update": 30, "higher_is_better": True}


def make_run(path: Path, recipe: str) -> None:
    with RunFolder.create(path) as run:
        run.write_config(dumps(parse(recipe)))
        run.update(status="done", update=40, minutes=0.5, best=BEST)


def test_runs_are_listed_and_their_different_settings_named(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "가", 'name = "a"\ntrain.batch = 8')
    make_run(tmp_path / "나", 'name = "b"\ntrain.batch = 9\ndata.swap = true')
    (tmp_path / "no run").mkdir()
    assert frame.run(["runs", str(tmp_path), "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert [Path(run["run"]).name for run in said["runs"]] == ["가", "나"]
    assert said["runs"][0]["best"] == BEST
    assert said["differences"] == {"data.swap": [False, True], "train.batch": [8, 9]}
    assert frame.run(["runs", str(tmp_path)]) == 0
    table = capsys.readouterr().err
    assert "가" in table
    assert "train.batch" in table


def test_a_damaged_run_is_shown_beside_the_others(tmp_path: Path, capsys) -> None:
    make_run(tmp_path / "fine", "")
    make_run(tmp_path / "hurt", "")
    make_run(tmp_path / "odd", "")
    (tmp_path / "hurt" / "run.json").write_text('{"format": 1, "it')
    (tmp_path / "odd" / "config.toml").write_text("train.btch = 1")
    found = list_runs(tmp_path)
    assert [bool(run.problem) for run in found] == [False, True, True]
    assert "run.json" in found[1].problem
    assert "config.toml was altered" in found[2].problem
    assert differences(found) == {}
    assert frame.run(["runs", str(tmp_path)]) == 0
    assert "damaged" in capsys.readouterr().err


def test_one_run_alone(tmp_path: Path) -> None:
    make_run(tmp_path / "one", "")
    assert [run.path.name for run in list_runs(tmp_path / "one")] == ["one"]
