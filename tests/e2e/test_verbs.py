"""What a reviewer of the verbs found: lines that keep step, settings of a run that are obeyed, refusals in words."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from program import PROGRAM, TINY, Answer, environment

import itda

Cli = Callable[..., Answer]
PAIRS = "abc\tcba\n\nbca\tacb\nno tab\ndefg\tgfed\n"


@pytest.fixture(scope="module")
def swapped_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose source is the second column."""
    return train_tiny(tmp_path_factory.mktemp("runs") / "swapped", "data.swap=true", "data.test=")


def train_tiny(folder: Path, *overrides: str) -> Path:
    itda.train("reverse", *TINY, *overrides, run=folder, updates=2)
    return folder


def refused(answer: Answer, *words: str) -> None:
    assert (answer.code, answer.out) == (2, ""), answer
    (line,) = [line for line in answer.err.splitlines() if line.startswith("itda: ")]
    assert "internal error" not in line
    assert all(word in line for word in words), line


def test_score_answers_line_by_line(cli: Cli, tiny_run: Path) -> None:
    for given in (PAIRS, f"\n{PAIRS}no tab\n\n"):
        answer = cli("score", tiny_run, "-", stdin=given.encode())
        numbers, lines = answer.out.split("\n")[:-1], given.split("\n")[:-1]
        assert [bool(number) for number in numbers] == ["\t" in line for line in lines]
        assert "skipped, no tab" in answer.err
    assert [one["line"] for one in cli("score", tiny_run, "-", "--json", stdin=PAIRS.encode()).lines] == [1, 3, 5]


def test_a_swapped_run_reads_its_source_in_the_second_column(
    cli: Cli, swapped_run: Path, tiny_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "pairs.tsv").write_text("ab\tabcdefg\nba\tgfedcba\n", encoding="utf-8")
    assert [one["tokens"] for one in cli("score", swapped_run, "pairs.tsv", "--json").lines] == [3, 3]
    swapped = cli("evaluate", swapped_run, "pairs.tsv", "--resamples", 40, "--json").json
    model = itda.load(swapped_run)
    nll = [one.nll for one in model.score([("abcdefg", "ab"), ("gfedcba", "ba")])]
    assert swapped["perplexity"]["score"] == pytest.approx(2.718281828 ** (sum(nll) / 6), rel=1e-4)
    for runs in ((swapped_run, tiny_run), (tiny_run, swapped_run)):
        refused(cli("evaluate", runs[0], "pairs.tsv", "--compare", runs[1]), "--compare", "data.swap")


def test_evaluate_measures_on_the_recipes_test_pairs(cli: Cli, tmp_path: Path, swapped_run: Path) -> None:
    (tmp_path / "test.tsv").write_text(PAIRS, encoding="utf-8")
    run = train_tiny(tmp_path / "run", f"data.test={tmp_path / 'test.tsv'}")
    said = cli("evaluate", run, "--resamples", 40, "--json").json
    assert (said["pairs"], said["sentences"]) == (str(tmp_path / "test.tsv"), 3)
    refused(cli("evaluate", swapped_run), "no data.test", "PAIRS")


def test_explain_cuts_what_is_too_long_and_says_so(cli: Cli, tiny_run: Path, recwarn: pytest.WarningsRecorder) -> None:
    for options, words in (
        (("ab" * 150,), "the source has 300 tokens and was cut to 200"),
        (("ab" * 150, "--target", "ba"), "the source has 300 tokens and was cut to 200"),
        (("abc", "--target", "ba" * 150), "the target has 300 tokens and was cut to 200"),
    ):
        answer = cli("explain", tiny_run, *options, "--text", "--json")
        assert answer.code == 0
        assert words in answer.err
        assert len(answer.json["src_tokens"]) <= 201
        assert len(answer.json["tokens"]) <= 501
    assert not [one for one in recwarn if "cut" in str(one.message)]
    with pytest.warns(UserWarning, match="the target has 300 tokens"):
        found = itda.load(tiny_run).attention("abc", "ba" * 150)
    assert (len(found.tokens), found.text) == (200, "ba" * 100)


def test_unknown_characters_are_shown_as_they_are(cli: Cli, tiny_run: Path) -> None:
    said = cli("explain", tiny_run, "a가b", "--target", "b나a", "--text", "--json").json
    assert (said["src_tokens"], said["tokens"]) == (["a", "가", "b", "<eos>"], ["b", "나", "a", "<eos>"])


def test_what_would_have_been_an_internal_error(cli: Cli, tiny_run: Path) -> None:
    many = "9" * 30
    for line, words in {
        ("train", "reverse", f"train.seed={many}"): ("train.seed is",),
        ("train", "reverse", "--seed", many): ("train.seed is",),
        ("train", "reverse", f"train.batch={many}"): ("train.batch is",),
        ("train", "reverse", "--device", "meta"): ("--device is meta",),
        ("train", "reverse", "--threads", "3000000000"): ("--threads is 3000000000",),
        ("generate", str(tiny_run), "--min-length", many): ("min_length",),
        ("generate", str(tiny_run), "--beam", "1", "--n-best", "1001"): ("n_best is 1001", "1000 at the most"),
        ("data", "look", "make:"): ("names no generator", "reverse"),
        ("data", "look", "make:reverse"): ("names no split", "make:reverse/valid"),
        ("evaluate", str(tiny_run), "make:reverse"): ("names no split", "make:reverse/train or make:reverse/valid"),
        ("train", "reverse", "data.valid=make:reverse"): ("data.valid is make:reverse", "make:reverse/valid"),
    }.items():
        refused(cli(*line, stdin=b"abc\n"), *words)


def test_validation_on_the_training_pairs_is_told(cli: Cli, tmp_path: Path) -> None:
    for name in ("a.tsv", "b.tsv"):
        (tmp_path / name).write_text("abc\tcba\nbca\tacb\n" * 10, encoding="utf-8")
    words = ("train", "reverse", "train.metric=loss", "--updates", 1, "data.train=a.tsv")
    assert "learned by heart" in cli(*words, "data.valid=b.tsv", "--run", "one").err
    (tmp_path / "b.tsv").write_text("abc\tcba\n" * 3, encoding="utf-8")
    assert "learned by heart" not in cli(*words, "data.valid=b.tsv", "--run", "two").err


@pytest.mark.skipif(os.name != "posix", reason="a shell that closes streams")
@pytest.mark.parametrize(
    ("closing", "word"), [("<&-", "standard input is closed"), (">&-", "standard output is closed")]
)
def test_a_closed_stream_is_refused_in_one_line(tiny_run: Path, closing: str, word: str) -> None:
    shell = f"echo abc | '{PROGRAM[0]}' -c '{PROGRAM[2]}' generate '{tiny_run}' {closing}"
    done = subprocess.run(["sh", "-c", shell], capture_output=True, text=True, env=environment_with_path(), timeout=120)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert word in done.stderr


@pytest.mark.skipif(os.name != "posix", reason="only there is Python started anew")
def test_utf8_mode_switched_off_for_good_is_no_endless_loop() -> None:
    command = [sys.executable, "-X", "utf8=0", *PROGRAM[1:], "--version"]
    settings = {**environment_with_path(), "LC_ALL": "C", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run(command, capture_output=True, text=True, env=settings, timeout=20)
    assert (done.returncode, done.stdout[:5]) == (0, "itda ")


PYTHON = """
import sys, numpy as np, itda
from itda.errors import UserError
model, vectors = itda.load(sys.argv[1]), itda.load(sys.argv[2])
calls = [
    lambda: model.score([None]), lambda: model.score([1]), lambda: model.score(None), lambda: model.score([("a", 1)]),
    lambda: model.generate(None), lambda: model.generate_lazily(None).__next__(), lambda: model.attention(1, 2),
    lambda: vectors.predict([[[0.0] * 10]], length="5"), lambda: vectors.predict(None, 5), lambda: itda.load(None),
    lambda: itda.train("reverse", 5), lambda: itda.train("reverse", ["train.updates=1"]),
    lambda: model.generate(["abc"], max_length_ratio=1e300), lambda: model.generate(["abc"], max_length_extra=10**30),
    lambda: model.generate(["abc"], n_best=True),
]
for number, call in enumerate(calls):
    try:
        call()
    except UserError:
        continue
    sys.exit(f"call {number} was accepted")
two = np.int64(2)
(one,) = model.generate(["abc"], n_best=two, beam_size=two, batch_size=two, length_penalty=np.float32(1))
assert len(one.n_best) == 2
assert vectors.predict([[[0.0] * 10]], two).shape == (1, 2, 10)
"""


def test_python_calls_with_something_else_are_refused_in_words(tiny_run: Path, vector_run: Path) -> None:
    """In a process of its own: here, annotations are checked before a function sees what it was given."""
    words = [sys.executable, "-c", PYTHON, str(tiny_run), str(vector_run)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment_with_path(), timeout=120)
    assert done.returncode == 0, done.stderr


def environment_with_path() -> dict[str, str]:
    return environment(PYTHONPATH=os.pathsep.join(filter(None, sys.path)))
