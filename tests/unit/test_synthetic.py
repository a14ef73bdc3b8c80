"""Generated corpora: seeded, without leaks between splits, and with alignments that say what is true."""

from __future__ import annotations

import re
from datetime import date, timedelta
from functools import cache
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.data.synthetic import GENERATORS, Example, make, normal_vectors, write
from itda.data.synthetic.dates import FIRST, FORMS, LAST, dates_of, write_date
from itda.data.synthetic.numerals import ordinal, sino_korean, sino_korean_month
from itda.errors import UserError

DAYS = st.dates(FIRST, LAST)
SHORT_DAYS = st.dates(date(1950, 1, 1), date(2049, 12, 31))
WRITTEN = st.sampled_from(FORMS).flatmap(lambda form: st.tuples(SHORT_DAYS if "{y}" in form else DAYS, st.just(form)))


@cache
def drawn(name: str, split: str, seed: int = 1, pairs: int = 4000) -> tuple[Example, ...]:
    """Draw once for all tests."""
    return tuple(make(name, seed=seed, pairs=pairs, split=split))


def split_pairs() -> list[tuple[str, str]]:
    return [(name, split) for name, generator in GENERATORS.items() for split in generator.pairs]


@pytest.mark.parametrize(("name", "split"), split_pairs())
def test_equal_seeds_give_equal_examples_and_other_seeds_others(name: str, split: str) -> None:
    first, again, other = (list(make(name, seed=seed, pairs=50, split=split)) for seed in (7, 7, 8))
    assert first == again
    assert first != other


@pytest.mark.parametrize(("name", "split"), split_pairs())
def test_a_smaller_number_of_pairs_is_a_prefix_and_no_source_comes_twice(name: str, split: str) -> None:
    many = drawn(name, split)
    assert tuple(make(name, pairs=100, split=split)) == many[:100]
    assert len({example.src for example in many}) == len(many) == 4000


@pytest.mark.parametrize(("name", "split"), split_pairs())
def test_zero_pairs_mean_the_default_of_the_split(name: str, split: str) -> None:
    if split != "train":  # 20000 take their time where every type is checked
        assert sum(1 for _ in make(name, split=split)) == GENERATORS[name].pairs[split]


def test_the_examples_of_a_seed_never_change() -> None:
    """A published figure names a seed: if this fails, what the generator makes has changed for everyone."""
    assert [example.src for example in make("dates", seed=1, pairs=3)] == FIRST_DATES
    assert [example.src for example in make("reverse", seed=1, pairs=3)] == FIRST_REVERSALS


FIRST_DATES = ["06-May-1834", "November 9, 1745", "Sat, Jun 3, 1719"]
FIRST_REVERSALS = ["dpqhl", "olrpkabjjskj", "esbnsptzp"]


@pytest.mark.parametrize("name", GENERATORS)
def test_no_source_is_in_two_splits_whatever_the_seeds(name: str) -> None:
    sources = {split: set() for split in GENERATORS[name].pairs}
    for split, found in sources.items():
        for seed in (1, 2):
            found |= {example.src for example in drawn(name, split, seed)}
    splits = list(sources)
    for index, split in enumerate(splits):
        for other in splits[index + 1 :]:
            assert not sources[split] & sources[other], (split, other)


def test_no_form_of_a_date_outside_training_can_be_drawn_in_training() -> None:
    train, valid, test = (set(dates_of(split)) for split in ("train", "valid", "test"))
    assert sum(map(len, (train, valid, test))) == len(train | valid | test)
    assert len(train) + len(valid) + len(test) == (LAST - FIRST).days + 1
    assert {example.tgt for example in drawn("dates", "train")} <= {day.isoformat() for day in train}


@pytest.mark.parametrize("split", ["train", "valid", "test"])
def test_every_form_is_seen_about_equally_often(split: str) -> None:
    sources = [example.src for example in drawn("dates", split)]
    for form in FORMS:
        seen = sum(1 for source in sources if re.fullmatch(pattern(form), source))
        assert seen > 0.4 * len(sources) / len(FORMS), form


def pattern(form: str) -> str:
    """Turn a form into an expression that matches what is written in it (and perhaps in a close relative)."""
    fields = {"Y": r"\d{4}", "m": r"\d{1,2}", "d": r"\d{1,2}", "5th": r"\d{1,2}[a-z]{2}", "화": "[월화수목금토일]"}
    hangul, number, word = dict.fromkeys(("이천", "삼", "오"), "[가-힣]+"), r"\d\d", "[A-Z][a-z]+"
    fields |= (
        hangul | dict.fromkeys(("y", "mm", "dd"), number) | dict.fromkeys(("Tuesday", "Tue", "March", "Mar"), word)
    )
    pieces = re.split(r"\{(.+?)\}", form)
    return "".join(fields[piece] if n % 2 else re.escape(piece) for n, piece in enumerate(pieces))


def test_a_written_form_means_one_date_only() -> None:
    """Two dates that are written alike would make the task unsolvable; every third day of three years."""
    meaning: dict[str, str] = {}
    for year in (1999, 2005, 2024):
        for n in range(0, 365, 3):
            day = date(year, 1, 1) + timedelta(days=n)
            for form in FORMS:
                example = write_date(day, form)
                assert meaning.setdefault(example.src, example.tgt) == example.tgt, example.src


@settings(max_examples=200, deadline=None)
@given(WRITTEN)
def test_sure_links_join_a_figure_to_how_it_is_written(written: tuple[date, str]) -> None:
    example = write_date(*written)
    assert len({j for _, j in example.alignment}) == len(example.alignment), "one sure source for each digit"
    assert example.alignment <= example.possible
    for i, j in example.alignment:
        said, digit = example.src[i], example.tgt[j]
        korean = "영일이삼사오육칠팔구".find(said) if said not in "유시" else {"유": 6, "시": 1}[said]
        assert said == digit or str(korean) == digit or (said in "십백천" and digit == "1"), (example.src, i, j)


@settings(max_examples=200, deadline=None)
@given(WRITTEN)
def test_links_keep_to_the_part_that_states_the_field(written: tuple[date, str]) -> None:
    example = write_date(*written)
    assert not {4, 7} & {j for _, j in example.possible}, "a hyphen is stated by nothing"
    parts = [{i for i, j in example.possible if j in group} for group in ((0, 1, 2, 3), (5, 6), (8, 9))]
    assert sum(map(len, parts)) == len(set().union(*parts)), "no character belongs to two parts"
    for part in parts:
        assert part == set(range(min(part), max(part) + 1))


@settings(max_examples=200, deadline=None)
@given(WRITTEN)
def test_only_what_is_not_written_has_no_link(written: tuple[date, str]) -> None:
    example = write_date(*written)
    for j in set(range(10)) - {4, 7} - {j for _, j in example.possible}:
        assert example.tgt[j] == "0" or (j in (0, 1) and "{y}" in written[1]), (example.src, j)


@settings(max_examples=100, deadline=None)
@given(DAYS)
def test_weekdays_are_the_true_ones(day: date) -> None:
    names = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
    name = names[(day.toordinal() + 6) % 7]
    assert write_date(day, "{Tuesday}, {March} {d}, {Y}").src.startswith(f"{name}, ")
    assert write_date(day, "{Tue} {d} {Mar} {Y}").src.startswith(f"{name[:3]} ")
    assert write_date(day, "{Y}. {m}. {d}.({화})").src.endswith(f"({'월화수목금토일'[names.index(name)]})")


def test_forms_read_as_people_write_them() -> None:
    day = date(2024, 3, 5)
    written = {write_date(day, form).src for form in FORMS}
    assert {"2024년 3월 5일 화요일", "24. 3. 5.", "March 5th, 2024", "5 Mar 24", "이천이십사년 삼월 오일"} <= written
    assert [ordinal(n).text for n in (1, 2, 3, 4, 11, 12, 13, 21, 22, 23, 30, 31)] == [
        "1st", "2nd", "3rd", "4th", "11th", "12th", "13th", "21st", "22nd", "23rd", "30th", "31st",
    ]  # fmt: skip
    assert [sino_korean(n, 4).text for n in (1950, 2000, 2010, 2049)] == ["천구백오십", "이천", "이천십", "이천사십구"]
    assert [sino_korean_month(n).text for n in (1, 6, 10, 11, 12)] == ["일", "유", "시", "십일", "십이"]


def test_two_digit_years_lie_between_1950_and_2049() -> None:
    assert write_date(date(1950, 1, 2), "{d} {Mar} {y}").src == "2 Jan 50"
    assert write_date(date(2049, 1, 2), "{d} {Mar} {y}").src == "2 Jan 49"
    for day in (date(1949, 12, 31), date(2050, 1, 1)):
        with pytest.raises(AssertionError, match="two digits"):
            write_date(day, "{d} {Mar} {y}")
    years = {int(e.tgt[:4]) for e in drawn("dates", "train") if re.fullmatch(pattern("{d} {Mar} {y}"), e.src)}
    assert years <= set(range(1950, 2050))
    assert (FIRST.isoformat(), LAST.isoformat()) == ("1600-01-01", "2099-12-31")


def test_an_alignment_by_hand() -> None:
    example = write_date(date(2024, 3, 15), "{y}년 {m}월 {d}일")  # 24년 3월 15일
    assert example.alignment == {(0, 2), (1, 3), (4, 6), (7, 8), (8, 9)}
    assert example.possible == example.alignment
    named = write_date(date(2024, 5, 5), "{d} {Mar} {Y}")  # 5 May 2024
    assert named.alignment == {(0, 9), (6, 0), (7, 1), (8, 2), (9, 3)}
    assert named.possible - named.alignment == {(i, j) for i in (2, 3, 4) for j in (5, 6)} | {(7, 0)}
    assert named.pharaoh() == "6-0 7?0 7-1 8-2 9-3 2?5 3?5 4?5 2?6 3?6 4?6 0-9"
    spoken = write_date(date(1960, 10, 21), "{이천}년 {삼}월 {오}일")  # 천구백육십년 시월 이십일일
    assert spoken.pharaoh() == "0-0 1-1 2?1 3-2 4?2 7-5 10-8 11?8 12-9"


@pytest.mark.parametrize("split", ["train", "valid", "test", "long"])
def test_reversals_are_reversed_aligned_and_of_the_stated_length(split: str) -> None:
    low, high = (13, 20) if split == "long" else (3, 12)
    lengths = set()
    for example in make("reverse", pairs=500, split=split):
        assert example.tgt == example.src[::-1]
        assert all(example.src[i] == example.tgt[j] and i + j == len(example.src) - 1 for i, j in example.possible)
        assert len(example.alignment) == len(example.src)
        lengths.add(len(example.src))
    assert lengths == set(range(low, high + 1))


def test_normal_vectors_are_seeded_standard_normal_and_float32() -> None:
    src, tgt = normal_vectors(seed=1, pairs=200, length=50, src_dim=10, tgt_dim=4)
    assert (src.shape, tgt.shape) == ((200, 50, 10), (200, 50, 4))
    assert src.dtype == tgt.dtype == np.float32
    assert np.allclose((src.mean(), src.std()), (0, 1), atol=0.02)
    again = normal_vectors(seed=1, pairs=200, length=50, src_dim=10, tgt_dim=4)
    assert all(map(np.array_equal, (src, tgt), again))
    assert not np.array_equal(src[..., :4], tgt)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: make("date"), ["'date'", "did you mean 'dates'", "reverse"]),
        (lambda: make("nothing"), ["'nothing'", "dates, reverse, normal"]),
        (lambda: make("normal"), ["normal", 'data.kind = "vectors"']),
        (lambda: make("dates", split="long"), ["'long'", "train, valid, test"]),
        (lambda: make("dates", pairs=-1), ["-1", "20000"]),
        (lambda: make("reverse", pairs=10**9), [str(10**9), "twice"]),
        (lambda: normal_vectors(1, 2, 0, 10, 10), ["data.length is 0"]),
        (lambda: write("dates", Path("never"), pairs={"trian": 3}), ["'trian'"]),
    ],
)
def test_what_a_user_gets_wrong_is_said_in_one_line_at_once(call: object, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        call()  # type: ignore[operator]
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_written_files_hold_the_examples_and_their_links(tmp_path: Path) -> None:
    paths = write("dates", tmp_path / "날짜", seed=5, pairs={"train": 30, "valid": 10, "test": 10})
    assert {path.name for path in paths} == {
        "train.tsv", "train.align", "valid.tsv", "valid.align", "test.tsv", "test.align", "README.md",
    }  # fmt: skip
    examples = list(make("dates", seed=5, pairs=30))
    lines = (tmp_path / "날짜" / "train.tsv").read_bytes().decode().split("\n")
    assert lines == [*(f"{example.src}\t{example.tgt}" for example in examples), ""]
    links = (tmp_path / "날짜" / "train.align").read_text().splitlines()
    for example, line in zip(examples, links, strict=True):
        sure = {tuple(map(int, link.split("-"))) for link in line.split() if "-" in link}
        assert sure == example.alignment
        assert len(line.split()) == len(example.possible)
    readme = (tmp_path / "날짜" / "README.md").read_text(encoding="utf-8")
    assert all(words in readme for words in ("| train | 30 |", "seed 5", "2024. 3. 5.(화)"))
    assert not list((tmp_path / "날짜").glob(".tmp-*"))


def test_files_that_differ_are_never_overwritten(tmp_path: Path) -> None:
    sizes = {"train": 5, "valid": 5, "test": 5, "long": 5}
    write("reverse", tmp_path, seed=1, pairs=sizes)
    write("reverse", tmp_path, seed=1, pairs=sizes)  # the same bytes again: nothing is lost
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(UserError, match="something else"):
        write("reverse", tmp_path, seed=2, pairs=sizes)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_file_in_place_of_the_folder_is_the_users_to_mend(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("")
    with pytest.raises(UserError, match="not a folder"):
        write("dates", tmp_path / "taken", pairs={"train": 1, "valid": 1, "test": 1})


def test_drawing_is_lazy() -> None:
    assert len(list(islice(make("reverse", pairs=4_000_000), 3))) == 3
