"""The reader of pairs: every line counted, both sides together, errors that name file, line and byte."""

import gzip
import hashlib
import io
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.data import lines
from itda.data.catalog import locate
from itda.data.corpus import CorpusFiles, Line, ReadReport, input_hashes, keep_stdin, read_lines, read_pairs
from itda.errors import UserError


def tsv(folder: Path, content: str | bytes, name: str = "pairs.tsv") -> CorpusFiles:
    data = content.encode() if isinstance(content, str) else content
    (folder / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return CorpusFiles(name, (folder / name,))


def read(files: CorpusFiles, swap: bool = False) -> tuple[list[tuple[int, str, str]], ReadReport]:
    report = ReadReport()
    return [(p.number, p.src, p.tgt) for p in read_pairs(files, swap=swap, report=report)], report


def both_sides(folder: Path, src: str | bytes, tgt: str | bytes, ending: str = "") -> CorpusFiles:
    first, second = tsv(folder, src, "pairs.en" + ending), tsv(folder, tgt, "pairs.ko" + ending)
    return CorpusFiles("pairs", (*first.paths, *second.paths))


def test_tsv_gzip_parallel_and_stdin_give_the_same_pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = [(1, "Go.", "가."), (2, " a  b ", "x\u2028y\x85\x0c\x00z")]
    text = "".join(f"{src}\t{tgt}\n" for _, src, tgt in expected)
    halves = ["".join(pair[side] + "\n" for pair in expected) for side in (1, 2)]
    given = [tsv(tmp_path, text), tsv(tmp_path, text, "pairs.tsv.gz"), both_sides(tmp_path, *halves)]
    given.append(both_sides(tmp_path, *halves, ending=".gz"))
    (tmp_path / "named-plainly").write_bytes(gzip.compress(text.encode()))
    given.append(CorpusFiles("x", (tmp_path / "named-plainly",)))
    for files in given:
        assert read(files)[0] == expected
        assert read(files, swap=True)[0] == [(number, tgt, src) for number, src, tgt in expected]
    for data in (text.encode(), gzip.compress(text.encode())):
        stdin = io.TextIOWrapper(io.BufferedReader(io.BytesIO(data)))
        monkeypatch.setattr(sys, "stdin", stdin)
        assert read(locate("-"))[0] == expected


def test_stdin_is_kept_for_training_because_it_is_read_more_than_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(b"a\tb\n"))))
    with pytest.raises(UserError, match="only once"):
        input_hashes(locate("-"))
    kept = keep_stdin(locate("-"), tmp_path / "run")
    assert kept.kind == "tsv"
    assert read(kept)[0] == read(kept)[0] == [(1, "a", "b")]


@settings(deadline=None, max_examples=80)
@given(
    sides=st.lists(
        st.tuples(*[st.text(st.characters(exclude_characters="\n\t\r", exclude_categories=["Cs"]))] * 2), min_size=1
    ),
    end=st.sampled_from(["\n", "\r\n"]),
    last=st.booleans(),
)
def test_lines_end_at_newline_only(tmp_path_factory: pytest.TempPathFactory, sides: list, end: str, last: bool) -> None:
    sides = [("." + src, tgt + ".") for src, tgt in sides]  # so that no side is blank, and no mark comes first
    text = end.join("\t".join(pair) for pair in sides) + (end if last else "")
    files = tsv(tmp_path_factory.mktemp("pairs"), text)
    pairs, report = read(files)
    assert pairs == [(number, *pair) for number, pair in enumerate(sides, 1)]
    assert (report.lines, report.pairs, report.messages()) == (len(sides), len(sides), [])


def test_what_is_skipped_is_counted_by_line(tmp_path: Path) -> None:
    text = "a\tb\n\tb\na\t\u3000\n \t \n\nno tab\na\tb\tc\td\n" + "z\tz\n" * 10
    pairs, report = read(tsv(tmp_path, text))
    assert [number for number, _, _ in pairs] == [1, 7, *range(8, 18)]
    assert (report.lines, report.pairs) == (17, 12)
    assert report.messages() == [
        "skipped, blank source: 1 (line 2)",
        "skipped, blank target: 1 (line 3)",
        "skipped, both sides blank: 2 (lines 4, 5)",
        "skipped, no tab: 1 (line 6)",
        "columns after the second ignored: 1 (line 7)",
    ]
    _, report = read(tsv(tmp_path, "a\t\n" * 30 + "a\tb\n"))
    assert report.messages() == ["skipped, blank target: 30 (lines 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, ...)"]


def test_blank_lines_of_one_side_shift_nothing(tmp_path: Path) -> None:
    files = both_sides(tmp_path, "a\n\nc\nd\n\n", "A\nB\n \nD\n\n")
    pairs, report = read(files)
    assert pairs == [(1, "a", "A"), (4, "d", "D")]
    assert report.messages() == [
        "skipped, blank source: 1 (line 2)",
        "skipped, blank target: 1 (line 3)",
        "skipped, both sides blank: 1 (line 5)",
    ]


@pytest.mark.parametrize("swapped", [False, True])
def test_unequal_files_name_both_and_both_counts(tmp_path: Path, swapped: bool) -> None:
    texts = ["a\nb\nc\nd\n", "x\ny"]
    files = both_sides(tmp_path, *(texts[::-1] if swapped else texts))
    counts = "pairs.en has 2 lines and .*pairs.ko has 4" if swapped else "pairs.en has 4 lines and .*pairs.ko has 2"
    with pytest.raises(UserError, match=counts):
        read(files)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "pairs.tsv has no pair .* it is empty"),
        (b"\n\n", "both sides blank: 2"),
        (b"a\nb\nc\td\n", "no tab in 2 of 3 lines"),
        (b"ok\tok\nab\xff\tx\n", "pairs.tsv, line 2, byte 8 .* not UTF-8: 0xff"),
        ("ok\tok\nx\t각".encode()[:-1], "line 2, byte 8 .* middle of a character"),
        ("a\tb\n".encode("utf-16"), "line 1, byte 0 is not UTF-8: it looks like UTF-16;"),
        ("a\tb\n".encode("utf-32"), "looks like UTF-32;"),
        ("abcd\tb\n".encode("utf-16-le"), "looks like UTF-16 or UTF-32 without a mark"),
        (b"\xed\xa0\x80\tx\n", "line 1, byte 0"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        read(tsv(tmp_path, content))


def test_a_file_without_tabs_is_refused_before_it_is_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no tab in 1000 of 1000 lines"):
        read(tsv(tmp_path, "no tab\n" * 5000))


def test_bad_gzip_is_refused_by_name(tmp_path: Path) -> None:
    whole = gzip.compress("".join(f"line {n}\tZeile {n}\n" for n in range(5000)).encode())
    for damaged in (whole[:-8], whole[: len(whole) // 2], whole[:3], whole[:-6] + b"\0\0\0\0\0\0", whole + b"garbage"):
        (tmp_path / "cut.tsv.gz").write_bytes(damaged)
        with pytest.raises(UserError, match=r"cut.tsv.gz is a damaged or truncated gzip file"):
            read(CorpusFiles("x", (tmp_path / "cut.tsv.gz",)))
    (tmp_path / "cut.tsv.gz").write_bytes(b"a\tb\n")
    with pytest.raises(UserError, match=r"cut.tsv.gz is named .gz, but is no gzip file"):
        read(CorpusFiles("x", (tmp_path / "cut.tsv.gz",)))


def test_a_mark_is_removed_at_the_start_of_each_file_only(tmp_path: Path) -> None:
    mark = "\ufeff"
    assert read(tsv(tmp_path, f"{mark}a\tb\n{mark}c\t{mark}d\n"))[0] == [(1, "a", "b"), (2, f"{mark}c", f"{mark}d")]
    assert read(both_sides(tmp_path, f"{mark}a\n", f"{mark}b\n"))[0] == [(1, "a", "b")]


@pytest.mark.parametrize("end", ["\n", "\r\n", ""])
@pytest.mark.parametrize("size", range(14, 20))
def test_a_line_around_the_limit_is_whole_or_cut(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, end: str
) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 16)
    path = tmp_path / "long.txt"
    path.write_bytes(b"x" * size + end.encode() + (b"next\n" if end else b""))
    first, *rest = read_lines(path)
    assert first == Line(1, "x" * min(size, 16), size > 16)
    assert rest == ([Line(2, "next")] if end else [])


def test_an_overlong_line_is_cut_between_characters_and_skipped_as_a_pair(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lines, "LONGEST_LINE", 16)
    for start in ("", "a", "ab"):
        path = tmp_path / "long.txt"
        path.write_text(start + "각" * 50 + "\nb\n", encoding="utf-8")
        first, second = read_lines(path)
        assert first.cut
        assert (start + "각" * 50).startswith(first.text)
        assert len(first.text) >= 4
        assert second == Line(2, "b")
    _, report = read(tsv(tmp_path, "a\tb\n" + "x" * 99 + "\ty\nc\td\n"))
    assert [finding.lines for finding in report.skipped.values()] == [[2]]


def test_one_endless_line_needs_little_memory_and_time(tmp_path: Path) -> None:
    import tracemalloc

    path = tmp_path / "huge.tsv"
    with path.open("wb") as file:
        for _ in range(64):
            file.write(b"a" * (1 << 20))
        file.write(b"\tb\nc\td\n")
    start = time.monotonic()
    tracemalloc.start()
    pairs, report = read(CorpusFiles("x", (path,)))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert pairs == [(2, "c", "d")]
    assert report.messages() == ["skipped, longer than 1048576 bytes: 1 (line 1)"]
    assert peak < 16 << 20
    assert time.monotonic() - start < 5


def test_hashes_are_those_of_the_files(tmp_path: Path) -> None:
    files = tsv(tmp_path, "a\tb\n")
    assert input_hashes(files) == {str(tmp_path / "pairs.tsv"): hashlib.sha256(b"a\tb\n").hexdigest()}


def test_generated_pairs_are_read_like_others() -> None:
    files = locate("make:reverse/train", seed=3, pairs=20)
    pairs, report = read(files)
    assert len(pairs) == report.pairs == 20
    assert read(files)[0] == pairs
    assert input_hashes(files) == input_hashes(files) != input_hashes(locate("make:reverse/train", seed=4, pairs=20))


class TestLocate:
    @pytest.fixture(autouse=True)
    def root(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        root = tmp_path / "data"
        for name in (
            "toy_en_ko/train.tsv.gz",
            "toy_en_ko/test.tsv",
            "ko_en/dev.en.gz",
            "ko_en/dev.ko",
            "plain/a.en",
            "plain/a.de",
        ):
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(b"")
        (root / "toy_en_ko/README.md").write_text(
            "# toy\n\n- **Licence**: CC0\n- **Licence line quoted**: no\nLicense: MIT too\n"
        )
        monkeypatch.setenv("ITDA_DATA", str(root))
        monkeypatch.chdir(tmp_path)
        return root

    def test_names_under_the_root(self, root: Path) -> None:
        assert locate("toy_en_ko/train").paths == (root / "toy_en_ko/train.tsv.gz",)
        assert locate("toy_en_ko/test").paths == locate("toy_en_ko/test.tsv").paths == (root / "toy_en_ko/test.tsv",)
        assert locate("ko_en/dev").paths == (root / "ko_en/dev.ko", root / "ko_en/dev.en.gz")
        assert locate("plain/a.de,plain/a.en").paths == (root / "plain/a.de", root / "plain/a.en")
        assert locate(str(root / "toy_en_ko/train")).paths == (root / "toy_en_ko/train.tsv.gz",)
        assert locate("toy_en_ko/train").licence == ("CC0", "MIT too")

    def test_a_missing_one_says_where_it_looked(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with pytest.raises(UserError) as error:
            locate("toy_en_ko/valid")
        for place in (
            "toy_en_ko/valid.tsv.gz",
            f"{root}/toy_en_ko/valid.tsv.gz",
            f"{root}/toy_en_ko/valid.tsv",
            f"ITDA_DATA is {root}",
        ):
            assert place in str(error.value)
        assert "\n" not in str(error.value)
        monkeypatch.delenv("ITDA_DATA")
        with pytest.raises(UserError, match="ITDA_DATA is not set"):
            locate("toy_en_ko/train")

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("toy_en_ko", "is a folder; name one of its splits: toy_en_ko/test, toy_en_ko/train"),
            ("plain/a", "a.de, a.en"),
            ("plain/a.en,plain/a.ko", r"looked for .*plain/a\.ko"),
            ("a,b,c", "names 3 files"),
            (" ", "no corpus is named"),
        ],
    )
    def test_what_cannot_be_meant_is_refused(self, name: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            locate(name)
