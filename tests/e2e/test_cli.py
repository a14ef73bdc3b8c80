"""Each verb as a user meets it: exit codes, one JSON object, one line for each mistake, any console, any path."""

import contextlib
import json
import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from program import PROGRAM, TINY, Answer, environment, process

from itda.errors import MachineError
from itda.run import read_metrics
from itda.training import checkpoint

Cli = Callable[..., Answer]
posix = pytest.mark.skipif(os.name == "nt", reason="signals, pipes and terminals of POSIX")
PAIRS = "abc\tcba\nbca\tacb\ndefg\tgfed\n"


def refused(answer: Answer, *words: str, code: int = 2) -> None:
    """One line on standard error, with what matters in it; nothing on standard output; never a traceback."""
    assert (answer.code, answer.out) == (code, ""), answer
    (line,) = [line for line in answer.err.splitlines() if line.startswith("itda: ")]
    assert line == answer.err.splitlines()[-1], answer.err
    assert "Traceback" not in answer.err
    assert "internal error" not in answer.err
    for word in words:
        assert word in line, line


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    path = tmp_path / "짝.tsv"
    path.write_text(PAIRS, encoding="utf-8")
    return path


# What each verb answers


def test_train_answers_with_one_object(cli: Cli) -> None:
    answer = cli("train", "reverse", *TINY, "--updates", 4, "--seed", 7, "--threads", 1, "--device", "cpu", "--json")
    assert answer.code == 0
    said = answer.json
    assert said["run"] == str(Path("runs") / "reverse")
    assert said["updates"] == 4
    assert said["minutes"] > 0
    assert said["best"]["metric"] == "loss"
    assert "update 4" in answer.err
    assert "seed = 7" in Path("runs/reverse/config.toml").read_text(encoding="utf-8")
    made = {path.name for path in Path("runs/reverse").iterdir()}
    assert {"config.toml", "weights.safetensors", "run.json", "metrics.jsonl", "learning-curve.png"} <= made


def test_the_seed_decides_the_weights(cli: Cli) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        assert cli("train", "reverse", *TINY, "--updates", 2, "--seed", seed, "--threads", 1, "--run", name).code == 0
    a, b, c = ((Path(name) / "weights.safetensors").read_bytes() for name in "abc")
    assert a == b
    assert a != c


def test_generate_keeps_the_order_and_the_blank_lines(cli: Cli, tiny_run: Path) -> None:
    lines = ["abc", "", "d", "   ", "ghij", "", "가나"]
    answer = cli("generate", tiny_run, "--batch", 2, stdin="\n".join(lines).encode())
    assert answer.code == 0
    outputs = answer.out.split("\n")
    assert outputs.pop() == ""
    assert len(outputs) == len(lines)
    assert [not text for text in outputs] == [not line.strip() for line in lines]
    for line, output in zip(lines, outputs, strict=True):
        assert cli("generate", tiny_run, stdin=line.encode()).out in (f"{output}\n", "")  # "" for no line at all


def test_generate_reads_a_file_and_writes_json_lines(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "입력.txt").write_text("abc\n\ndef\n", encoding="utf-8")
    answer = cli("generate", tiny_run, tmp_path / "입력.txt", "--json", "--beam", 3, "--n-best", 2)
    said = answer.lines
    assert len(said) == 2 + 1 + 2
    for one in said:
        assert {"text", "score", "alignment"} <= one.keys()
        assert len(one["alignment"]) == len(one["tokens"])
    assert said[0]["score"] >= said[1]["score"]
    assert said[2]["text"] == ""


def test_score_writes_json_lines(cli: Cli, tiny_run: Path, pairs: Path) -> None:
    said = cli("score", tiny_run, pairs, "--json").lines
    assert [one["tokens"] for one in said] == [4, 4, 5]
    assert all(one["log_prob"] == pytest.approx(sum(one["token_log_probs"])) for one in said)
    numbers = cli("score", tiny_run, "-", stdin=PAIRS.encode()).out.split()
    assert [float(number) for number in numbers] == pytest.approx([one["log_prob"] for one in said], abs=1e-3)


def test_evaluate_answers_with_intervals(cli: Cli, tiny_run: Path, plain_run: Path, pairs: Path) -> None:
    answer = cli("evaluate", tiny_run, pairs, "--compare", plain_run, "--resamples", 40, "--json")
    assert answer.code == 0
    said = answer.json
    for name in ("bleu", "chrf", "ter", "exact_match", "token_accuracy", "perplexity", "bits_per_character"):
        assert {"score", "low", "high"} <= said[name].keys(), name
        assert said[name]["low"] <= said[name]["score"] <= said[name]["high"], name
    assert "version" in said["bleu"]["signature"]
    assert said["compare"]["run"] == str(plain_run)
    assert "BLEU" in cli("evaluate", tiny_run, pairs, "--resamples", 40, "--beam", 1).err


def test_explain_draws_and_prints(cli: Cli, tiny_run: Path) -> None:
    for name in ("그림.png", "picture.svg"):
        answer = cli("explain", tiny_run, "abc", "--out", name, "--json")
        assert answer.code == 0
        said = answer.json
        assert np.array(said["attention"]).shape == (len(said["tokens"]), len(said["src_tokens"]))
        assert Path(name).stat().st_size > 1000
    answer = cli("explain", tiny_run, "abc", "--target", "cba", "--text")
    assert (answer.code, answer.out) == (0, "")
    assert "cba" in answer.err


def test_runs_are_listed_and_no_setting_is_cut(cli: Cli, tiny_run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in (("first-of-all-runs", 8), ("second-of-all-runs", 4)):
        overrides = [f"train.batch={size}", f"train.teacher_forcing.decay_updates={size}"]
        words = [one for one in TINY if "batch" not in one]
        assert cli("train", "reverse", *words, *overrides, "--updates", 1, "--run", f"runs/{name}").code == 0
    assert [Path(run["run"]).name for run in cli("runs", "--json").json["runs"]] == [
        "first-of-all-runs",
        "second-of-all-runs",
    ]
    for width in (200, 60, 20):
        monkeypatch.setenv("COLUMNS", str(width))
        said = cli("runs").err
        assert "train.teacher_forcing.decay_updates" in said
        assert "…" not in said.split("train.batch")[1]
        assert ("first-of-all-runs: 8" in said) == (width < 100)


def test_config_and_data(cli: Cli) -> None:
    assert cli("config", "check", "reverse", "--json").json["problems"] == []
    assert "[train]" in cli("config", "show", "reverse").out
    assert "train.batch" in cli("config", "explain", "train.batch").out
    assert len(cli("data", "make", "reverse", "--pairs", 5, "--json").json["files"]) > 1
    assert cli("data", "look", "data/reverse/train.tsv", "--json").json["pairs"] == 5


# Mistakes


def test_wrong_runs(cli: Cli, tiny_run: Path, pairs: Path, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    hurt, unfinished = tmp_path / "hurt", tmp_path / "unfinished"
    shutil.copytree(tiny_run, hurt)
    shutil.copytree(tiny_run, unfinished)
    os.truncate(hurt / "weights.safetensors", 1000)
    (unfinished / "weights.safetensors").unlink()
    for verb in (["generate", ...], ["score", ..., pairs], ["evaluate", ..., pairs], ["explain", ..., "abc"]):
        for run, words in {
            "nowhere": ("no run folder nowhere",),
            "folder": ("folder is not a run folder",),
            str(pairs): ("짝.tsv",),
            str(hurt): ("weights.safetensors", "truncated or damaged"),
            str(unfinished): ("weights.safetensors is missing",),
        }.items():
            refused(cli(*(run if word is ... else word for word in verb), stdin=b"abc\n"), *words)


def test_altered_weights_are_found(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    hurt = tmp_path / "hurt"
    shutil.copytree(tiny_run, hurt)
    data = bytearray((hurt / "weights.safetensors").read_bytes())
    data[-5] ^= 1
    (hurt / "weights.safetensors").write_bytes(data)
    refused(cli("generate", hurt, stdin=b"abc\n"), "weights.safetensors is damaged")


RECIPE = 'name = "mine"\ndata.train = "{}"\n{}'


@pytest.mark.parametrize(
    ("train", "rest", "words"),
    [
        ("make:reverse", "train.learing_rate = 1", ("learing_rate", "did you mean 'train.learning_rate'")),
        ("make:reverse", "train.updates = ", ("mine.toml",)),
        ("make:reverse", "", ("no budget",)),
        ("make:nothing", "train.updates = 1", ("nothing", "reverse")),
        ("nowhere.tsv", "train.updates = 1", ("nowhere.tsv", "ITDA_DATA")),
        ("-", "train.updates = 1", ("data.train is -",)),
        ("empty.tsv", "train.updates = 1", ("empty.tsv", "empty")),
        ("a.en,a.ko", "train.updates = 1", ("a.en has 2 lines", "a.ko has 1")),
        ("bad.npz", 'train.updates = 1\ndata.kind = "vectors"', ("bad.npz",)),
        ("array.npz", 'train.updates = 1\ndata.kind = "vectors"', ("array.npz",)),
        ("short.npz", 'train.updates = 1\ndata.kind = "vectors"', ("short.npz", "no array tgt")),
        ("pickle.npz", 'train.updates = 1\ndata.kind = "vectors"', ("pickle.npz",)),
    ],
)
def test_wrong_recipes_and_corpora(cli: Cli, tmp_path: Path, train: str, rest: str, words: tuple[str, ...]) -> None:
    (tmp_path / "mine.toml").write_text(RECIPE.format(train, rest), encoding="utf-8")
    (tmp_path / "empty.tsv").touch()
    (tmp_path / "a.en").write_text("one\ntwo\n")
    (tmp_path / "a.ko").write_text("하나\n", encoding="utf-8")
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 not a zip")
    with (tmp_path / "array.npz").open("wb") as file:
        np.save(file, np.zeros((2, 3, 10), dtype=np.float32))
    np.savez(tmp_path / "short.npz", src=np.zeros((2, 3, 10), dtype=np.float32))
    np.savez(tmp_path / "pickle.npz", src=np.array([{"a": 1}], dtype=object), tgt=np.zeros((1, 3, 10)))
    refused(cli("train", "mine.toml", stdin=b"a\tb\n"), *words)


def test_wrong_words_on_the_command_line(cli: Cli, tiny_run: Path, plain_run: Path, vector_run: Path) -> None:
    tiny, plain, vectors = str(tiny_run), str(plain_run), str(vector_run)
    for line, words in {
        ("trian",): ("did you mean 'train'",),
        ("train", "nowhere.toml"): ("nowhere.toml",),
        ("train", "reverse", "train.batch=0"): ("train.batch",),
        ("train", "reverse", "train.batch"): ("train.batch",),
        ("train", "reverse", "--updates", "0"): ("--updates",),
        ("train", "reverse", "--resume", "--overwrite"): ("--resume", "--overwrite"),
        ("train", "reverse", *TINY, "--run", tiny): ("뒤집기", "--overwrite"),
        ("train", "reverse", "train.batch=3", "--run", tiny, "--resume"): ("another recipe", "only the budget"),
        ("train", "reverse", "--device", "abacus"): ("--device is abacus",),
        ("train", "reverse", "--threads", "0"): ("--threads",),
        ("train", "reverse", "--seed", "-1"): ("--seed",),
        ("generate", tiny, "--beam", "0"): ("--beam",),
        ("generate", tiny, "nowhere.txt"): ("nowhere.txt",),
        ("generate", tiny, "--length-penalty", "nan"): ("--length-penalty",),
        ("generate", vectors): ("data.kind = vectors",),
        ("score", tiny, "nowhere.tsv"): ("nowhere.tsv",),
        ("score", vectors, "make:reverse/test"): ("data.kind = vectors",),
        ("evaluate", tiny, "make:nothing"): ("nothing",),
        ("evaluate", tiny, "make:reverse/tst"): ("tst",),
        ("evaluate", tiny, "make:reverse/test", "--tokenize", "babel"): ("babel",),
        ("evaluate", tiny, "make:reverse/test", "--compare", "nowhere"): ("nowhere",),
        ("explain", tiny, "  "): ("blank",),
        ("explain", tiny, ""): ("blank",),
        ("explain", plain, "abc"): ("has no attention", "model.decoder.kind = plain"),
        ("explain", vectors, "abc"): ("data.kind = vectors",),
        ("explain", tiny, "abc", "--out", "picture.doc"): ("picture.doc",),
        ("runs", "nowhere"): ("nowhere",),
        ("data", "make", "nothing"): ("nothing",),
        ("data", "look", "nowhere"): ("nowhere",),
        ("config", "explain", "trian.batch"): ("trian.batch",),
        ("config", "check", "reverse", "train.updates=0"): ("no budget",),
        ("demo", "--updates", "0"): ("--updates",),
    }.items():
        refused(cli(*line, stdin=b"abc\n"), *words)


def test_bad_input_lines(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "cp949.txt").write_bytes("안녕".encode("cp949"))
    refused(cli("generate", tiny_run, "cp949.txt"), "cp949.txt", "line 1")
    refused(cli("generate", tiny_run, stdin="abc\n안녕\n".encode("utf-16")), "standard input", "UTF-16")
    refused(cli("evaluate", tiny_run, "-", stdin=b"\n\n"), "no pair")
    refused(cli("score", tiny_run, "-", stdin=b"a b c\n"), "no tab")
    answer = cli("generate", tiny_run, stdin=b"")
    assert (answer.code, answer.out) == (0, "")


def test_an_over_long_line_is_cut_and_named(cli: Cli, tiny_run: Path) -> None:
    answer = cli("generate", tiny_run, "--beam", 1, stdin=b"abc\n" + b"d" * 500 + b"\nabc\n")
    assert answer.code == 0
    assert "line 2: the source has 500 tokens and was cut to 200 (data.max_src_length)" in answer.err
    outputs = answer.out.splitlines()
    assert len(outputs) == 3
    assert outputs[0] == outputs[2]


DIVERGING = ("train.optimizer=adamw", "train.learning_rate=1000", "train.weight_decay=1", "train.warmup=0")


def test_a_diverged_training_says_so(cli: Cli) -> None:
    answer = cli("train", "reverse", *TINY, *DIVERGING, "--updates", 30, "--json")
    assert answer.code == 1
    assert "training diverged at update" in answer.err
    assert "internal error" not in answer.err


# Real processes: consoles, locales, pipes, signals, disks


@pytest.mark.parametrize("locale", [{"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, {"LC_ALL": "C"}])
def test_the_c_locale(tiny_run: Path, tmp_path: Path, locale: dict[str, str]) -> None:
    (tmp_path / "입력.txt").write_text("가나다\nabc\n", encoding="utf-8")
    answer = process("generate", tiny_run, tmp_path / "입력.txt", "--json", "--beam", "1", **locale)
    assert answer.code == 0, answer.err
    assert [one["src_tokens"] for one in answer.lines][1] == ["a", "b", "c"]


def test_a_cp949_console_and_hangul_in_every_path(tmp_path: Path) -> None:
    (tmp_path / "말뭉치.tsv").write_text("강아지 🐕\tpuppy\n고양이\tcat ½\n" * 20, encoding="utf-8")
    recipe = tmp_path / "조리법.toml"
    recipe.write_text(f'name = "달리기"\ndata.train = "{tmp_path.as_posix()}/말뭉치.tsv"\n', encoding="utf-8")
    run = tmp_path / "실행"
    words = ["train", recipe, "tokenizer.kind=characters", *TINY[1:6], "--updates", "3", "--run", run]
    answer = process(*words, "--json", PYTHONIOENCODING="cp949")
    assert answer.code == 0, answer.err
    assert answer.json["run"] == str(run)
    assert (run / "learning-curve.png").stat().st_size > 1000
    answer = process("explain", run, "강아지 🐕", "--text", "--json", PYTHONIOENCODING="cp949")
    assert answer.code == 0, answer.err
    assert answer.json["src_tokens"][:3] == ["강", "아", "지"]


@posix
def test_a_reader_that_leaves_is_no_error(tiny_run: Path) -> None:
    source = "abc\n" * 20000
    with subprocess.Popen(
        [*PROGRAM, "generate", str(tiny_run), "--beam", "1"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    ) as generator:
        assert generator.stdin
        assert generator.stdout
        assert generator.stderr
        os.set_blocking(generator.stdin.fileno(), False)
        with contextlib.suppress(BlockingIOError):
            os.write(generator.stdin.fileno(), source.encode())
        os.set_blocking(generator.stdin.fileno(), True)
        generator.stdin.close()
        first = generator.stdout.readline()
        generator.stdout.close()
        said = generator.stderr.read()
    assert first.endswith(b"\n")
    assert said == b""


@posix
def test_a_person_is_answered_line_by_line(tiny_run: Path) -> None:
    import pty

    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [*PROGRAM, "generate", str(tiny_run), "--json"], stdin=theirs, stdout=subprocess.PIPE, env=environment()
    )
    try:
        assert process.stdout
        for line in (b"abc\n", b"\n", b"de\n"):
            os.write(ours, line)
            ready, _, _ = select.select([process.stdout], [], [], 120)
            assert ready, "no answer before the end of the input"
            said = json.loads(process.stdout.readline())
            assert len(said["src_tokens"]) == len(line) - 1
        os.write(ours, b"\x04")  # Ctrl-D
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.communicate()
        os.close(ours)
        os.close(theirs)


@posix
def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    budget = ["train.validate_every=50", "--updates", "120", "--threads", "1", "--device", "cpu"]
    words = ["train", "reverse", *TINY[:-1], *budget]
    run = tmp_path / "two words"
    training = subprocess.Popen(
        [*PROGRAM, *words, "--run", str(run)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment()
    )
    wait_for(lambda: (run / "metrics.jsonl").exists() and (run / "metrics.jsonl").stat().st_size > 500, training)
    training.send_signal(signal.SIGINT)
    _, said = training.communicate(timeout=120)
    text = said.decode()
    assert training.returncode == 130, text
    found = re.search(r"saved at update (\d+); go on with: (itda .*)\n", text)
    assert found, text
    assert 0 < int(found[1]) < 120
    assert checkpoint.steps(run / "checkpoints")[-1] == int(found[1])
    program, *again = shlex.split(found[2])
    assert program == "itda"
    assert process(*again).code == 0
    assert process(*words, "--run", tmp_path / "whole").code == 0
    assert (run / "weights.safetensors").read_bytes() == (tmp_path / "whole" / "weights.safetensors").read_bytes()
    losses = [
        [(line["step"], line.get("loss")) for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (run, tmp_path / "whole")
    ]
    assert losses[0] == losses[1]


def wait_for(seen: Callable[[], bool], process: "subprocess.Popen[bytes]", seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not seen():
        assert process.poll() is None, process.communicate()[1].decode()
        assert time.monotonic() < end
        time.sleep(0.005)


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """A file system in memory, for root on Linux."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root on Linux can mount a small disk")
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("mounting is forbidden here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_a_full_disk_loses_no_checkpoint(cli: Cli, tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "size=1m") as disk:
        words = ["train", "reverse", *TINY, "--updates", 60, "--run", disk / "run"]
        assert cli(*words[:-3], 10, *words[-2:]).code == 0
        weights = (disk / "run" / "weights.safetensors").read_bytes()
        free = shutil.disk_usage(disk).free
        (disk / "ballast").write_bytes(b"x" * max(0, free - 50_000))
        refused(cli(*words, "--resume"), str(disk), "No space left", code=1)
        assert (disk / "run" / "weights.safetensors").read_bytes() == weights
        whole = checkpoint.latest(disk / "run" / "checkpoints")
        assert whole is not None
        assert whole.step >= 10
        (disk / "ballast").unlink()
        answer = cli(*words, "--resume", "--json")
        assert answer.code == 0, answer.err
        assert answer.json["updates"] == 60


def test_a_longer_budget_survives_a_crash(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """The budget is written down before the first checkpoint under it; a crash between the two may not lose it."""
    words = ["train", "reverse", *TINY, "--json"]
    assert cli(*words, "--updates", 3).code == 0
    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "save", Mock(side_effect=MachineError("the disk is gone")))
        refused(cli(*words, "--updates", 6, "--resume"), "the disk is gone", code=1)
    assert cli(*words, "--updates", 6, "--resume").json["updates"] == 6
    assert cli(*words, "--updates", 6, "--resume").json["updates"] == 6


def test_an_unwritable_folder(cli: Cli, tmp_path: Path, tiny_run: Path) -> None:
    with contextlib.ExitStack() as stack:
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            folder = stack.enter_context(mounted(tmp_path / "disk", "ro"))
        else:
            folder = tmp_path / "disk"
            folder.mkdir(mode=0o500)
        refused(cli("train", "reverse", *TINY, "--updates", 1, "--run", folder / "run"), str(folder), code=1)
        refused(cli("explain", tiny_run, "abc", "--out", folder / "a.png"), str(folder), code=1)
        refused(cli("data", "make", "reverse", "--pairs", 3, "--out", folder / "data"), str(folder), code=1)
