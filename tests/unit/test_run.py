"""A run folder is found whole, is never lost by accident, and has one writer."""

import contextlib
import json
import math
import subprocess
from pathlib import Path

import pytest
import torch
from torch import nn

from itda import run
from itda.errors import DamagedFileError, UserError
from itda.run import MetricsLog, RunFolder, read_metrics


def model(value: float = 0.0) -> nn.Module:
    linear = nn.Linear(2, 2)
    nn.init.constant_(linear.weight, value)
    nn.init.constant_(linear.bias, value)
    return linear


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished run."""
    with RunFolder.create(tmp_path / "실행" / "run") as folder:
        folder.write_config("format = 1\n")
        with folder.writing("tokenizer"):
            folder.tokenizer_path.mkdir()
            (folder.tokenizer_path / "model").write_text("pieces")
        log = MetricsLog(folder.metrics_path)
        log.append({"update": 1})
        log.close()
        folder.checkpoints.mkdir()
        folder.finish(model(2.0).state_dict(), update=7, best=0.5, minutes=1.5)
    return folder.path


def test_a_run_says_what_it_is(finished: Path):
    facts = json.loads((finished / "run.json").read_text())
    assert facts["format"] == 1
    assert facts["torch"] == torch.__version__
    assert facts["itda"]
    assert (facts["status"], facts["update"], facts["best"], facts["minutes"]) == ("done", 7, 0.5, 1.5)
    assert set(facts["checksums"]) == {"config.toml", "tokenizer/model", "weights.safetensors"}
    assert all(len(value) == 64 for value in facts["checksums"].values())


def test_the_commit_is_that_of_our_own_sources():
    command = ["git", "-C", str(Path(run.__file__).parent), "rev-parse", "HEAD"]
    found = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.provenance()["commit"] in (found.stdout.strip() or None, None)


def test_a_run_is_opened_and_its_weights_come_back(finished: Path):
    folder = RunFolder.open(finished)
    folder.verify()
    other = model()
    folder.load_weights(other)
    assert other.weight.flatten().tolist() == [2.0] * 4


@pytest.mark.parametrize("file", ["weights.safetensors", "config.toml", "tokenizer/model"])
@pytest.mark.parametrize("cut", [True, False])
def test_damage_is_noticed_and_named(cut: bool, file: str, finished: Path):
    path = finished / file
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] if cut else bytes([*data[:-1], data[-1] ^ 1]))
    with pytest.raises(DamagedFileError, match=f"{path.name} ") as caught:
        RunFolder.open(finished).verify()
    assert caught.value.exit_code == 2
    if file.startswith("weights"):
        with pytest.raises(
            DamagedFileError, match=r"weights\.safetensors is (truncated or )?damaged.*; copy the run folder again"
        ):
            RunFolder.open(finished).load_weights(model())


def test_missing_parts_are_named(finished: Path):
    (finished / "weights.safetensors").unlink()
    with pytest.raises(UserError, match=r"weights\.safetensors is missing: training has not ended"):
        RunFolder.open(finished).load_weights(model())
    (finished / "tokenizer" / "model").unlink()
    with pytest.raises(UserError, match="model is missing"):
        RunFolder.open(finished).verify("tokenizer")


def test_what_is_no_run_folder_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match="there is no run folder"):
        RunFolder.open(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is not a run folder: run\.json is missing"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 1}')
    with pytest.raises(UserError, match=r"is not a run folder: run\.json is not itda's"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text('{"format": 1,')
    with pytest.raises(DamagedFileError, match=r"run\.json is damaged"):
        RunFolder.open(tmp_path)


def test_formats(finished: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(run, "FORMAT", 2)
    with pytest.raises(UserError, match="has format 1"):
        RunFolder.open(finished)
    monkeypatch.setitem(run.MIGRATIONS, 1, lambda facts: facts | {"status": facts["status"].upper()})
    assert RunFolder.open(finished).facts["status"] == "DONE"
    with RunFolder.resume(finished) as folder:
        folder.update(best=1)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 2; this itda reads 1 to 1; install another version"):
        RunFolder.open(finished)


def test_a_run_is_never_overwritten_by_accident(finished: Path):
    with pytest.raises(UserError, match=r"already holds a run \(status done, update 7\); go on with --resume"):
        RunFolder.create(finished)
    RunFolder.open(finished).verify()


def test_overwriting_removes_the_run_and_nothing_else(finished: Path):
    (finished / "notes.txt").write_text("mine")
    with RunFolder.create(finished, overwrite=True) as folder:
        assert folder.facts["status"] == "new"
        assert folder.checksums == {}
    assert sorted(p.name for p in finished.iterdir()) == [".lock", "notes.txt", "run.json"]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_folder_of_other_things_is_never_touched(overwrite: bool, tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("years")
    with pytest.raises(UserError, match="holds other files and no run; it is never overwritten"):
        RunFolder.create(tmp_path, overwrite)
    with pytest.raises(UserError, match="holds other files and no run"):
        RunFolder.resume(tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="is not a run folder"):
        RunFolder.create(tmp_path, overwrite)
    with pytest.raises(UserError, match="is a file; name a folder"):
        RunFolder.create(tmp_path / "thesis.tex", overwrite)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["run.json", "thesis.tex"]


def test_resuming_begins_where_there_is_nothing_and_goes_on_where_there_is_something(finished: Path, tmp_path: Path):
    with RunFolder.resume(tmp_path / "new") as folder:
        assert folder.facts["status"] == "new"
    (finished / ".tmp-weights.safetensors").write_text("half")
    (finished / "tokenizer" / ".tmp-model").write_text("half")
    with RunFolder.resume(finished) as folder:
        assert folder.facts["status"] == "done"
        assert folder.has("tokenizer")
        assert not folder.has("checkpoints")
    assert not list(finished.rglob(".tmp-*"))


def test_one_process_writes_and_all_read(finished: Path):
    with RunFolder.resume(finished):
        with pytest.raises(UserError, match="another process is training in"):
            RunFolder.resume(finished)
        with pytest.raises(UserError, match="another process is training in"):
            RunFolder.create(finished, overwrite=True)
        reader = RunFolder.open(finished)
        reader.verify()
        with pytest.raises(AssertionError):
            reader.update(best=1)
    RunFolder.resume(finished).close()


def test_a_part_is_unfinished_until_it_is_whole(finished: Path):
    with RunFolder.resume(finished) as folder:
        with contextlib.suppress(KeyboardInterrupt), folder.writing("tokenizer"):
            (folder.tokenizer_path / "model").write_text("half")
            raise KeyboardInterrupt
        assert not RunFolder.open(finished).has("tokenizer")
        RunFolder.open(finished).verify()
        with folder.writing("tokenizer"):
            (folder.tokenizer_path / "model").write_text("whole")
        assert RunFolder.open(finished).has("tokenizer")


def test_metrics_are_lines_of_json_and_numbers_that_json_does_not_know_are_words(tmp_path: Path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.append({"text": "가\u2028나", "loss": math.nan, "best": [math.inf, {"low": -math.inf}], "b": 1, "a": 0.1})
    log.close()
    text = (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert text == '{"a": 0.1, "b": 1, "best": ["inf", {"low": "-inf"}], "loss": "nan", "text": "가\u2028나"}\n'
    assert read_metrics(tmp_path / "metrics.jsonl")[0]["text"] == "가\u2028나"


def test_a_line_that_was_cut_short_is_left_out_and_written_again(tmp_path: Path):
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path)
    log.append({"update": 1})
    length = log.sync()
    log.append({"update": 2})
    log.close()
    path.write_bytes(path.read_bytes()[:-4])
    assert read_metrics(path) == [{"update": 1}]
    log = MetricsLog(path, length)
    log.append({"update": 2})
    log.close()
    assert read_metrics(path) == [{"update": 1}, {"update": 2}]
    path.write_bytes(b'{"upd\n{"update": 2}\n')
    with pytest.raises(DamagedFileError, match=r"metrics\.jsonl is damaged"):
        read_metrics(path)
