"""The command line's frame: exit codes, one-line errors, quick help, and consoles that cannot write Hangul."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from itda.cli import main as frame
from itda.errors import ItdaError, MachineError, UserError

RECIPE = 'name = "fine"\nabout = "데이터 é"\ndata.train = "pairs.tsv"\ntrain.updates = 10\n'
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CP949 = {"PYTHONIOENCODING": "cp949"}


def itda(*arguments: str, stdin: bytes = b"", **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run the command in a process of its own."""
    command = [sys.executable, "-m", "itda.cli.main", *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, env={**os.environ, **environment}, timeout=60)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch):
    """Let the command raise a given error, and return (exit code, standard error)."""

    def fail_with(error: BaseException, capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
        def raising(*_: object, **__: object) -> None:
            raise error

        monkeypatch.setattr(frame, "app", raising)
        return frame.run(arguments), capsys.readouterr().err

    return fail_with


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a\n  b"), 2, "itda: a b\n"),
        (MachineError("the disk is full"), 1, "itda: the disk is full\n"),
        (ItdaError("ours"), 1, "itda: ours\n"),
        (KeyboardInterrupt(), 130, "itda: interrupted\n"),
        (typer.Abort(), 130, "itda: interrupted\n"),
        (
            OSError(errno.ENOSPC, "No space left"),
            1,
            "itda: [Errno 28] No space left (the machine refused; --debug shows",
        ),
        (MemoryError(), 1, "itda: not enough memory; "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to"), 1, "itda: not enough memory; "),
        (RuntimeError("CUDA out of memory. Tried to allocate"), 1, "itda: not enough memory; "),
        (RuntimeError("not what it was"), 1, "itda: internal error, RuntimeError: not what it was; "),
        (ValueError("x\ny"), 1, "itda: internal error, ValueError: x y; run again with --debug"),
    ],
)
def test_each_failure_is_one_line_and_an_exit_code(failing, capsys, error, code, line) -> None:
    got, said = failing(error, capsys)
    assert got == code
    assert said.startswith(line)
    assert said.count("\n") == 1


def test_debug_shows_the_traceback_wherever_it_stands(failing, capsys) -> None:
    assert "Traceback" not in failing(UserError("x"), capsys, "train")[1]
    for arguments in (["--debug", "train"], ["train", "--debug"]):
        said = failing(UserError("x"), capsys, *arguments)[1]
        assert "Traceback" in said
        assert said.endswith("itda: x\n")
    assert "Traceback" not in failing(UserError("x"), capsys, "explain", "--", "--debug")[1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["confg"], "no verb 'confg'; did you mean 'config'?; see itda --help"),
        (["config", "explain", "--nope"], "see itda config explain --help"),
        (["config", "show"], "see itda config show --help"),
        (["config", "explain", "train.learing_rate"], "did you mean 'train.learning_rate'?"),
        (["config", "show", "nowhere.toml"], "no recipe 'nowhere.toml'"),
        (["runs", "nowhere"], "no folder nowhere"),
    ],
)
def test_what_the_user_got_wrong_ends_with_two(arguments, words, capsys) -> None:
    assert frame.run(arguments) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith("itda: ")
    assert words in said.err
    assert said.err.count("\n") == 1


def test_a_verb_whose_file_is_missing_breaks_no_other(monkeypatch, capsys) -> None:
    monkeypatch.setitem(frame.VERBS, "ghost", "itda.cli.ghost")
    assert frame.run(["config", "explain", "name"]) == 0
    assert frame.run(["--help"]) == 0
    assert "ghost" not in capsys.readouterr().out
    assert frame.run(["ghost"]) == 2


def test_help_and_config_are_quick_because_torch_stays_out() -> None:
    program = (
        "import sys, itda.cli.main as m; code = m.run(['--help']) or m.run(['config', 'explain'])\n"
        "heavy = {'torch', 'numpy', 'matplotlib', 'sentencepiece', 'sacrebleu'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else code)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "config" in done.stdout


@pytest.mark.parametrize(
    "environment", [{}, C_LOCALE, CP949, {**C_LOCALE, **CP949}], ids=["utf8", "C", "cp949", "both"]
)
def test_hangul_in_paths_and_data_on_any_console(tmp_path: Path, environment) -> None:
    folder = tmp_path / "한국어 é"
    folder.mkdir()
    recipe = folder / "연습 é.toml"
    recipe.write_text(RECIPE, encoding="utf-8")
    shown = itda("config", "show", str(recipe), **environment)
    assert shown.returncode == 0, shown.stderr
    assert 'about = "데이터 é"' in shown.stdout.decode("utf-8")
    checked = itda("config", "check", str(recipe), "--json", **environment)
    assert json.loads(checked.stdout.decode("utf-8"))["recipe"] == str(recipe)
    refused = itda("config", "show", str(recipe), "train.batch=많이é", **environment)
    assert refused.returncode == 2
    expected = 'train.batch is "많이é"'.encode(
        "cp949" if "PYTHONIOENCODING" in environment else "utf-8", "backslashreplace"
    )
    assert expected in refused.stderr


def test_human_text_stays_off_standard_output(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    done = itda("runs", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"no runs in" in done.stderr
    done = itda("runs", str(tmp_path), "--json")
    assert json.loads(done.stdout) == {"runs": [], "differences": {}}


@pytest.mark.skipif(os.name != "posix", reason="a shell pipe")
@pytest.mark.parametrize(
    "key", ["all", "name"]
)  # more than a buffer, and less: what is left is written at the very end
def test_a_reader_that_leaves_is_no_error(key) -> None:
    program = f"'{sys.executable}' -m itda.cli.main config explain {key} | true"
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    done = subprocess.run(["sh", "-c", program], capture_output=True, timeout=60, env=buffered)
    assert done.stderr == b""


def test_version(capsys) -> None:
    assert frame.run(["--version"]) == 0
    assert capsys.readouterr().out.startswith("itda ")


def test_data_look_counts_pairs_skips_and_lengths(tmp_path: Path) -> None:
    file = tmp_path / "쌍.tsv"
    file.write_text("a b\tc\nno tab\n\tblank\n한국 말\td e f\n", encoding="utf-8")
    done = itda("data", "look", str(file), "--json", **CP949)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["lines"], found["pairs"]) == (4, 2)
    assert {reason: one["lines"] for reason, one in found["skipped"].items()} == {"no tab": [2], "blank source": [3]}
    assert found["lengths"]["tgt"]["words"] == {"min": 1, "median": 1, "mean": 2.0, "p95": 3, "max": 3}
    human = itda("data", "look", str(file))
    assert human.stdout == b""
    assert "skipped, no tab: 1 (line 2)" in human.stderr.decode()


def test_data_make_writes_a_corpus_that_look_reads(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    done = itda("data", "make", "reverse", "--out", str(folder), "--pairs", "20", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["folder"] == str(folder)
    looked = itda("data", "look", str(folder / "train.tsv"), "--json")
    assert json.loads(looked.stdout)["pairs"] == 20
