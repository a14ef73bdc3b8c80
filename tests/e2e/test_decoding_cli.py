"""`itda generate` with each option for decoding, on runs that know nothing; and ensembles of run folders."""

from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer

import itda
from itda.errors import UserError

Cli = Callable[..., Answer]
LINES = b"abc\nhg{x}f\nbad\n"


def texts(answer: Answer) -> list[str]:
    assert answer.code == 0, answer.err
    return answer.out.splitlines()


def test_phrases_come_and_stay_away(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    (tmp_path / "prefixes.txt").write_text("ab\n\nz\n", encoding="utf-8")
    (tmp_path / "must.tsv").write_text("cc\tdd\n\nee\n", encoding="utf-8")
    (tmp_path / "not.txt").write_text("aa\n\n가\n", encoding="utf-8")
    (tmp_path / "terms.tsv").write_text("bad\tgut\n", encoding="utf-8")
    files = ("--prefix-file", "prefixes.txt", "--must-file", "must.tsv", "--must-not-file", "not.txt")
    out = texts(cli("generate", tiny_run, *files, "--terminology", "terms.tsv", "--placeholders", stdin=LINES))
    assert len(out) == 3
    assert out[0].startswith("ab")
    assert out[2].startswith("z")
    for line, phrases in zip(out, (("cc", "dd"), ("{x}",), ("ee", "gut")), strict=True):
        assert all(phrase in line for phrase in phrases)
        assert "aa" not in line
    for line in texts(cli("generate", tiny_run, "--prefix", "q", "--must", "gg", "--must-not", "h", stdin=LINES)):
        assert line.startswith("q")
        assert "gg" in line
        assert "h" not in line


def test_samples_are_those_of_their_seed(cli: Cli, tiny_run: Path) -> None:
    words = ("generate", tiny_run, "--sample", "--temperature", 1.5, "--n-best", 3, "--top-p", 0.95)
    first = texts(cli(*words, "--seed", 1, stdin=LINES))
    assert len(first) == 9
    assert texts(cli(*words, "--seed", 1, "--batch", 1, stdin=LINES)) == first
    assert texts(cli(*words, "--seed", 2, stdin=LINES)) != first


def test_a_stream_prints_what_is_printed_without(cli: Cli, tiny_run: Path) -> None:
    for options in ((), ("--beam", 1), ("--sample",), ("--must", "gg")):
        expected = cli("generate", tiny_run, *options, stdin=LINES + b"\n")
        assert cli("generate", tiny_run, "--stream", *options, stdin=LINES + b"\n").out == expected.out


def test_the_search_is_as_it_was_asked(cli: Cli, tiny_run: Path) -> None:
    options = ("--no-repeat-ngram", 1, "--min-length", 2, "--length-normalization", "gnmt", "--length-penalty", 0.6)
    more = ("--coverage-penalty", 0.1, "--repetition-penalty", 1, "--diverse-groups", 2, "--beam", 4, "--diversity", 1)
    answer = cli("generate", tiny_run, *options, *more, "--n-best", 2, "--json", stdin=LINES)
    assert len(answer.lines) == 6
    for one in answer.lines:
        assert len(set(one["tokens"])) == len(one["tokens"]) >= 2


def test_an_ensemble_of_runs(cli: Cli, tiny_run: Path, plain_run: Path, vector_run: Path, tmp_path: Path) -> None:
    both = cli("generate", tiny_run, "--with", plain_run, "--json", stdin=LINES)
    assert len(both.lines) == 3
    expected = itda.load([tiny_run, plain_run]).generate(LINES.decode().split())
    assert [one["text"] for one in both.lines] == [one.text for one in expected]
    assert [one["score"] for one in both.lines] == pytest.approx([one.score for one in expected])
    geometric = cli("generate", tiny_run, "--with", plain_run, "--average", "log-probabilities", "--json", stdin=LINES)
    assert [one["score"] for one in geometric.lines] != [one["score"] for one in both.lines]
    single = itda.load([tiny_run]).generate(["abc"])
    assert single[0].score == pytest.approx(itda.load(tiny_run).generate(["abc"])[0].score)
    other = itda.fit([("one two", "eins zwei")] * 4, "model.encoder.dim=8", updates=1, run=tmp_path / "other").path
    assert other is not None
    for members, names in (((tiny_run, other), (str(tiny_run), str(other), "vocabulary")), ((), ("no runs",))):
        with pytest.raises(UserError) as caught:
            itda.load(list(members))
        assert all(name in str(caught.value) for name in names)
    with pytest.raises(UserError, match="average is 'mean'"):
        itda.load([tiny_run, plain_run], average="mean")
    with pytest.raises(UserError, match="use predict"):
        itda.load([tiny_run, vector_run])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--stream", "--json"), ("--stream", "--json")),
        (("--stream", "--n-best", 2), ("--stream", "--n-best")),
        (("--prefix", "a", "--prefix-file", "x"), ("--prefix", "--prefix-file")),
        (("--top-k", 3), ("--top-k", "--sample")),
        (("--sample", "--beam", 3), ("sample", "beam_size")),
        (("--sample", "--temperature", 0), ("temperature is 0",)),
        (("--diverse-groups", 2, "--beam", 3), ("diverse_groups", "beam_size")),
        (("--length-normalization", "mean"), ("length_normalization", "average, gnmt, reward")),
        (("--must", "ab", "--must-not", "b"), ("must asks for 'ab'", "must_not forbids 'b'")),
        (("--must", ""), ("must holds ''",)),
        (("--terminology", "none.tsv"), ("none.tsv",)),
        (("--placeholder-pattern", "("), ("placeholders", "no regular expression")),
        (("--average", "mean", "--with", "."), ("not a run folder",)),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(
    cli: Cli, tiny_run: Path, options: tuple[object, ...], words: tuple[str, ...]
) -> None:
    answer = cli("generate", tiny_run, *options, stdin=LINES)
    assert (answer.code, answer.out) == (2, "")
    (line,) = [line for line in answer.err.splitlines() if line.startswith("itda: ")]
    assert all(word in line for word in words), line


def test_coverage_needs_attention(cli: Cli, plain_run: Path) -> None:
    answer = cli("generate", plain_run, "--coverage-penalty", 0.5, stdin=LINES)
    assert answer.code == 2
    assert "coverage_penalty needs attention" in answer.err


def test_lists_of_wishes_are_as_long_as_the_texts(tiny_run: Path) -> None:
    model = itda.load(tiny_run)
    for asked in ({"prefix": ["a", "b"]}, {"must": [["a"], ["b"]]}, {"must_not": [["a"], []]}):
        (name,) = asked
        with pytest.raises(UserError, match=f"{name} has 2 entries"):
            model.generate(["abc"], **asked)
        with pytest.raises(UserError, match=f"{name} has 2 entries"):
            model.generate(["abc"] * 3, **asked)
        assert len(model.generate(["abc"] * 2, **asked)) == 2
    with pytest.raises(UserError, match="give a list of phrases"):
        model.generate(["abc"], must="ab")
    with pytest.raises(UserError, match="sample holds 'temp'"):
        model.generate(["abc"], sample={"temp": 1})
    with pytest.raises(UserError, match=r"unknown key 'decode\.pefix'"):
        model.generate(["abc"], pefix="a")


def test_a_blank_text_with_a_wish_is_written(tiny_run: Path) -> None:
    model = itda.load(tiny_run)
    blank, wished = model.generate(["", ""], prefix=["", "ab"])
    assert blank.text == ""
    assert wished.text.startswith("ab")


def test_what_cannot_be_obeyed_is_told(tiny_run: Path) -> None:
    """Every character that the model could write is banned inside the prefix's next place: only the end is left."""
    model = itda.load(tiny_run)
    with pytest.warns(UserWarning, match=r"line 1: no output of .* must 'b', must_not 'ab'.*the beginning of one"):
        model.generate(
            ["abc"], prefix="a", must=["b"], must_not=["ab", *(f"a{c}" for c in " cdefghijklmnopqrstuvwxyz<")]
        )
