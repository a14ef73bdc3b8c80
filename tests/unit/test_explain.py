"""Pictures and terminal grids: what is drawn, where it is drawn, and that every character of it can be read."""

from __future__ import annotations

import subprocess
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.errors import MachineError, UserError
from itda.explain import fonts
from itda.explain.curves import by_length_picture, learning_curve
from itda.explain.heatmap import checked, heatmap
from itda.explain.terminal import alignment_text, can_show, cells, print_alignment

SOURCE, TARGET = list("3월 5일"), list("03-05")
WEIGHTS = np.full((5, 5), 0.05) + 0.75 * np.eye(5)[[0, 1, 2, 3, 3]]
PNG = b"\x89PNG\r\n\x1a\n"


def pixels(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    return np.asarray(imread(path))[..., :3]


def test_a_drawing_has_its_tokens_in_their_script_and_warns_of_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Missing glyphs are warnings of matplotlib, and warnings are errors in our tests."""
    source = ["그는", "길을", "건넌다", "日本語", "カタカナ", "Straße", "Übergröße", "Ελλάδα", "Київ", "₩", "<eos>"]
    source += [unicodedata.normalize("NFD", "각"), "\u1112\u119e\u11ab", r"$\nosuch$", "a\tb\n", "\U0001f9ff", "\ue000"]
    path = heatmap(np.eye(len(source)), source, source, tmp_path / "그림" / "가.png", title="문장 $1$ 日本 \U0010ffff")
    assert path.read_bytes().startswith(PNG)
    assert not caplog.records


def test_hangul_is_drawn_as_itself_and_not_as_a_box(tmp_path: Path) -> None:
    one, other = (heatmap(np.eye(1), [char], ["x"], tmp_path / f"{ord(char)}.png") for char in "한글")
    first, second = pixels(one), pixels(other)
    assert first.shape == second.shape
    assert (first != second).any(), "two syllables that look alike are two boxes"
    assert fonts.readable("한글 뷁 똠방각하") == "한글 뷁 똠방각하"


def test_a_character_that_no_font_has_is_written_as_its_number() -> None:
    assert fonts.readable("a\U0010fffdb") == "aU+10FFFDb"
    assert fonts.readable("\u200b\t\x85\xa0") == "U+200BU+0009U+0085U+00A0"
    assert fonts.readable(unicodedata.normalize("NFD", "한글")) == "한글"
    assert fonts.labels([" ", "▁ein", "a"]) == ["␣", "␣ein", "a"]


@pytest.fixture
def no_carried_font(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Take away the installed fonts and those of the system: a bare machine with matplotlib alone."""
    monkeypatch.setattr(fonts, "CARRIERS", ())
    monkeypatch.setattr(fonts, "_system_fonts", lambda: ())
    fonts._first_choices.cache_clear()
    yield
    fonts._first_choices.cache_clear()


@pytest.mark.usefixtures("no_carried_font")
def test_without_any_font_for_hangul_the_numbers_are_drawn_and_the_remedy_is_named(tmp_path: Path) -> None:
    assert fonts.readable("가ä") == "U+AC00ä"
    heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / "bare.png", title="한글")
    with pytest.raises(UserError, match="pip install"):
        fonts.require_hangul()


def test_hangul_is_there_with_what_itda_installs() -> None:
    fonts.require_hangul()


@settings(max_examples=50, deadline=None)
@given(st.text(max_size=20))
def test_every_text_becomes_drawable(text: str) -> None:
    drawn = fonts.readable(text)
    assert drawn.isprintable()
    paths = [fonts._path(name) for name in fonts.families(drawn)]
    assert all(any(fonts._has(path, char) for path in paths) for char in drawn)


def test_settings_of_matplotlib_are_as_before(tmp_path: Path) -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / "a.png")
    assert dict(matplotlib.rcParams) == before


def test_matplotlib_and_rich_are_loaded_only_when_something_is_drawn() -> None:
    code = (
        "import sys; import itda.explain.heatmap, itda.explain.curves, itda.explain.terminal, itda.explain.fonts; "
        "print({'matplotlib', 'rich', 'torch'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize(("row", "column"), [(0, 0), (0, 2), (2, 0), (1, 2)])
def test_the_dark_cell_is_at_target_row_and_source_column(tmp_path: Path, row: int, column: int) -> None:
    weights = np.zeros((3, 3))
    weights[row, column] = 1.0
    image = pixels(heatmap(weights, ["i", "i", "i"], ["i", "i", "i"], tmp_path / "a.png"))
    blue = (image[..., 2] - image[..., 0] > 0.2).nonzero()  # the ink of the tokens is grey
    where = [np.mean(axis) / size for axis, size in zip(blue, image.shape[:2], strict=True)]
    expected = [(index + 0.5) / 3 for index in (row, column)]
    assert np.allclose(where, expected, atol=0.2), (where, expected)


def test_cells_are_square_whatever_the_lengths(tmp_path: Path) -> None:
    weights = np.zeros((2, 9))
    weights[1, 4] = 1.0
    image = pixels(heatmap(weights, ["i"] * 9, ["i"] * 2, tmp_path / "a.png"))
    down, across = (np.ptp(axis) for axis in (image[..., 2] - image[..., 0] > 0.2).nonzero())
    assert abs(down - across) <= 2


@pytest.mark.parametrize("name", ["a.png", "a.svg"])
def test_equal_input_gives_equal_bytes(tmp_path: Path, name: str) -> None:
    first, again = (heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / d / name, title="제목") for d in ("1", "2"))
    other = heatmap(WEIGHTS[::-1], SOURCE, TARGET, tmp_path / "3" / name, title="제목")
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()


def test_an_svg_carries_its_glyphs_so_that_it_needs_no_font(tmp_path: Path) -> None:
    svg = heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / "a.svg", title="제목").read_text(encoding="utf-8")
    assert "<svg" in svg
    assert "<text" not in svg
    assert "font-family" not in svg


def test_gold_links_are_outlined(tmp_path: Path) -> None:
    plain, marked = (heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / f"{len(g)}.png", gold=g) for g in ((), {(0, 1)}))
    assert plain.read_bytes() != marked.read_bytes()


def test_padding_is_never_drawn(tmp_path: Path) -> None:
    padded = np.zeros((6, 7))
    padded[:5, :5] = WEIGHTS
    padded[5, 0] = 1.0  # what a decoder does after the end means nothing
    bare = heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / "a.png")
    cut = heatmap(padded, [*SOURCE, "<pad>", "<pad>"], [*TARGET, "<pad>"], tmp_path / "b.png")
    assert bare.read_bytes() == cut.read_bytes()
    padded[1, 6] = 0.125
    with pytest.raises(UserError, match=r"attention on padding is 0\.125"):
        heatmap(padded, [*SOURCE, "<pad>", "<pad>"], [*TARGET, "<pad>"], tmp_path / "c.png")


@pytest.mark.parametrize(
    ("weights", "source", "target", "name", "words"),
    [
        (WEIGHTS, SOURCE[:4], TARGET, "a.png", ["(5, 5)", "5 target and 4 source", "eos"]),
        (np.ones((2, 3)) / 9, ["a", "b"], ["x", "y", "z"], "a.png", ["(2, 3)", "transposed"]),
        (np.ones((2, 2)), ["a", "b"], ["x", "y"], "a.png", ["sum to 1"]),
        (np.full((1, 1), np.nan), ["a"], ["x"], "a.png", ["sum to 1"]),
        (np.array([[1.5, -0.5]]), ["a", "b"], ["x"], "a.png", ["from 0 to 1"]),
        (np.zeros((0, 0)), [], [], "a.png", ["nothing to draw"]),
        (WEIGHTS, SOURCE, TARGET, "a.bmp", ["a.bmp", ".png or .svg"]),
    ],
)
def test_what_cannot_be_drawn_is_said(
    tmp_path: Path, weights: np.ndarray, source: list[str], target: list[str], name: str, words: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        heatmap(weights, source, target, tmp_path / name)
    assert all(word in str(caught.value) for word in words), caught.value
    assert not list(tmp_path.iterdir())


def test_gold_outside_the_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="5-0"):
        heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / "a.png", gold=[(5, 0)])


def test_a_picture_that_cannot_be_written_is_an_error_of_the_machine(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(MachineError, match=r"a\.png"):
        heatmap(WEIGHTS, SOURCE, TARGET, tmp_path / "a.png")


# --- the terminal

TOKENS = st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=25)


@settings(max_examples=60, deadline=None)
@given(TOKENS, TOKENS, st.integers(30, 100), st.sampled_from(["utf-8", "cp949", "ascii", "latin-1"]))
def test_no_line_is_wider_than_the_terminal_and_all_of_it_can_be_shown(
    source: list[str], target: list[str], width: int, encoding: str
) -> None:
    weights = np.full((len(target), len(source)), 1 / len(source))
    if "<pad>" in (source[-1], target[-1]):
        return
    text = alignment_text(weights, source, target, width=width, encoding=encoding)
    assert can_show(text, encoding)
    assert max(map(cells, text.split("\n"))) <= width


def test_a_grid_by_hand() -> None:
    assert alignment_text(WEIGHTS, SOURCE, TARGET).split("\n") == [
        "  3 월␣ 5 일",
        "0 ██░░░░░░░░",
        "3 ░░██░░░░░░",
        "- ░░░░██░░░░",
        "0 ░░░░░░██░░",
        "5 ░░░░░░██░░",
    ]
    words = alignment_text(np.array([[0.0, 1.0], [0.3, 0.7]]), ["ab", "c"], ["한국", "d"], encoding="ascii")
    assert words.split("\n") == [
        "             a",
        "             b c",
        "U+D55CU+AD6D . ##",
        "           d ++##",
    ]


def test_a_wide_source_goes_on_below_with_the_same_targets() -> None:
    text = alignment_text(np.eye(20), list("abcdefghijklmnopqrst"), list("abcdefghijklmnopqrst"), width=30)
    first, second = text.split("\n\n")
    assert [block.split("\n")[0].split() for block in (first, second)] == [list("abcdefghijklmn"), list("opqrst")]
    assert [line[0] for line in second.split("\n")[1:]] == list("abcdefghijklmnopqrst")


def test_long_tokens_are_cut_with_a_mark() -> None:
    text = alignment_text(np.eye(2), ["x" * 40, "y"], ["가" * 40, "z"])
    assert text.count("x") == 11
    assert "가" * 7 + "…" in text
    assert "~" in alignment_text(np.eye(2), ["x" * 40, "y"], ["a" * 40, "z"], encoding="cp949")


def test_printing_takes_width_and_encoding_from_the_console() -> None:
    import io

    from rich.console import Console

    raw = io.BytesIO()
    stream = io.TextIOWrapper(raw, encoding="cp949", newline="\n")
    print_alignment(
        Console(file=stream, width=40, force_terminal=False), WEIGHTS, SOURCE, ["[b]", ":x:", "a", "b", "c"]
    )
    stream.flush()
    shown = raw.getvalue().decode("cp949")
    assert shown.split("\n")[:2] == ["    3 월_ 5 일", "[b] ##::::::::"]
    assert ":x:" in shown


def test_what_fits_not_is_refused_in_the_terminal_too() -> None:
    with pytest.raises(UserError, match="transposed"):
        alignment_text(np.ones((2, 3)) / 3, ["a", "b"], ["x", "y", "z"])
    assert checked(WEIGHTS, SOURCE, TARGET)[0].shape == (5, 5)


# --- curves


def recorded(updates: int = 60) -> list[dict[str, object]]:
    lines: list[dict[str, object]] = []
    for step in range(1, updates + 1):
        lines.append({"kind": "update", "step": step, "minutes": step / 10, "nll": 5 / step, "loss": 6 / step})
        if step % 20 == 0:
            found = {"loss": 5 / step + 0.2, "bleu": 30 - 100 / step, "token_accuracy": 0.5}
            lines.append(
                {"kind": "validation", "step": step, "minutes": step / 10 + 0.05, "best": True, "metrics": found}
            )
    return lines


def test_a_learning_curve_is_the_same_for_the_same_numbers(tmp_path: Path) -> None:
    first, again = (learning_curve(recorded(), tmp_path / f"{n}.png", title="학습 곡선") for n in (1, 2))
    other = learning_curve(recorded(), tmp_path / "3.png", title="학습 곡선", metric="loss")
    assert first.read_bytes() == again.read_bytes() != other.read_bytes()
    assert first.read_bytes().startswith(PNG)


@pytest.mark.parametrize(
    "lines",
    [
        recorded(1),
        recorded(19),  # no validation yet
        [line for line in recorded() if line["kind"] == "validation"],
        [{**line, "minutes": 0.0} for line in recorded()],
        [{**line, "minutes": 1.0, "step": 5} for line in recorded()],
        [{**line, "nll": "nan"} if line["step"] == 30 else line for line in recorded()],
        [{**line, "kind": "other"} if line["step"] == 3 else line for line in recorded()],
        recorded(2000),
    ],
)
def test_any_stage_of_a_training_can_be_drawn(tmp_path: Path, lines: list[dict[str, object]]) -> None:
    assert learning_curve(lines, tmp_path / "a.png").read_bytes().startswith(PNG)


def by_length(shift: float, labels: tuple[str, ...] = ("1-5", "6-10", "11+")) -> list[dict[str, object]]:
    scores = [{"score": 30 - shift * n, "low": 27 - shift * n, "high": 33 - shift * n} for n in range(len(labels))]
    return [{"label": la, "unit": "words", "sentences": 9, "bleu": s} for la, s in zip(labels, scores, strict=True)]


def test_scores_by_length_of_two_runs(tmp_path: Path) -> None:
    runs = {"어텐션": by_length(1), "no attention": by_length(6)}
    first, again = (by_length_picture(runs, tmp_path / f"{n}.png") for n in (1, 2))
    swapped = by_length_picture(dict(reversed(runs.items())), tmp_path / "3.png")
    assert first.read_bytes() == again.read_bytes() != swapped.read_bytes()


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda path: learning_curve([], path), ["nothing to draw"]),
        (lambda path: learning_curve(recorded(), path, metric="chrf"), ["'chrf'", "bleu, token_accuracy, loss"]),
        (lambda path: learning_curve(recorded(), path.with_suffix(".gif")), [".gif", ".png or .svg"]),
        (lambda path: by_length_picture({}, path), ["nothing to draw"]),
        (lambda path: by_length_picture({"a": by_length(1), "b": by_length(1, ("1-9",))}, path), ["'b'", "ranges"]),
        (lambda path: by_length_picture({"a": by_length(1)}, path, metric="chrf"), ["'a'", "'chrf'"]),
    ],
)
def test_what_no_curve_can_be_drawn_of_is_said(tmp_path: Path, draw: object, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        draw(tmp_path / "a.png")  # type: ignore[operator]
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_long_label_is_shortened_in_a_picture_too() -> None:
    assert fonts.labels(["a" * 16, "a" * 17, "한" * 40]) == ["a" * 16, "a" * 15 + "…", "한" * 15 + "…"]
