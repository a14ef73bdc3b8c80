"""Each file of corpora/robustness behaves as its README says: from the file to batches of ids and back to text."""

import time
import tracemalloc
from pathlib import Path

import pytest

from itda.config import DataConfig, TokenizerConfig
from itda.data.catalog import locate
from itda.data.plan import plan_for
from itda.data.store import Store, build_store
from itda.errors import UserError
from itda.text.tokenizer import TokenizerPair, train_tokenizers

KINDS = ("sentencepiece", "characters", "words")
pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture
def folder(corpora: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ITDA_DATA", str(corpora))
    return corpora / "robustness"


def prepare(name: str, stores: Path, *, limits: int = 200, **settings: object) -> tuple[Store, TokenizerPair]:
    """Do all that training does before the first update, and go through an epoch."""
    from itda.data.corpus import read_pairs

    files = locate(name if "," in name or Path(name).is_absolute() else f"robustness/{name}")
    config = TokenizerConfig(**{"vocab_size": 2000, **settings})
    tokenizers = train_tokenizers(config, lambda: ((pair.src, pair.tgt) for pair in read_pairs(files)), seed=1)
    data = DataConfig(max_src_length=limits, max_tgt_length=limits)
    store = build_store(files, tokenizers, data, stores)
    for batch, unit in ((64, "sentences"), (300, "tokens")):
        seen = []
        for update in plan_for(store, tokenizers, batch, unit, 1, seed=1).epoch(0):
            assert update.num_targets > 0
            for src, tgt, numbers in update.sides(store):
                assert all(src)
                assert all(tgt)
                for row, number in enumerate(numbers):
                    assert tokenizers.src.decode(src[row]) == store.src_text(number)
                    assert tokenizers.tgt.decode(tgt[row]) == store.tgt_text(number)
                seen += numbers
        assert sorted(seen) == list(range(len(store)))
    return store, tokenizers


def texts(store: Store) -> list[tuple[str, str]]:
    return [(store.src_text(number), store.tgt_text(number)) for number in range(len(store))]


FIVE = ["Go.", "I am cold.", "Who is it?", "Thank you.", "I know that."]

REFUSED = {
    "robustness/misaligned.en,robustness/misaligned.ko": r"misaligned\.en has 5 lines and .*misaligned\.ko has 4",
    "utf16.tsv": r"utf16\.tsv, line 1, byte 0 is not UTF-8: it looks like UTF-16",
    "cp949.tsv": r"cp949\.tsv, line 1, byte 4 .*not UTF-8",
    "latin1.tsv": r"latin1\.tsv, line 1, byte 3 .*not UTF-8",
    "empty.tsv": r"empty\.tsv has no pair .* it is empty",
    "not_gzip.tsv.gz": r"not_gzip\.tsv\.gz is named \.gz, but is no gzip file",
    "truncated.tsv.gz": r"truncated\.tsv\.gz is a damaged or truncated gzip file",
}
# number of pairs, messages of the report
ACCEPTED = {
    "no_final_newline.tsv": (5, []),
    "crlf.tsv": (5, []),
    "bom.tsv": (5, []),
    "missing_tab.tsv": (2, ["skipped, no tab: 1 (line 2)"]),
    "extra_tabs.tsv": (2, ["columns after the second ignored: 2 (lines 1, 2)"]),
    "empty_sides.tsv": (
        1,
        [
            "skipped, blank source: 1 (line 2)",
            "skipped, blank target: 1 (line 3)",
            "skipped, both sides blank: 2 (lines 4, 5)",
        ],
    ),
    "one_pair.tsv": (1, []),
    "all_same.tsv": (200, []),
    "unicode_nfd.tsv": (None, []),
    "unicode_odd.tsv": (10, []),
    "unicode_emoji.tsv": (5, []),
    "scripts.tsv": (None, []),
    "special_tokens.tsv": (4, []),
    "numbers_punct.tsv": (None, []),
    "toy_copy.tsv": (2000, []),
    "toy_reverse.tsv": (2000, []),
    "noisy_ratio.tsv": (None, None),
    "shifted_half_en_ko.tsv": (500, []),
}
OWN_TEST = {"truncated_utf8.tsv", "long_line.tsv", "one_huge_token.tsv", "README.md"}


def test_every_file_of_the_folder_is_tested(folder: Path) -> None:
    named = {Path(part).name for name in (*REFUSED, *ACCEPTED, *OWN_TEST) for part in name.split(",")}
    assert named == {path.name for path in folder.iterdir()}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_files_are_refused_in_one_line_that_names_them(folder: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match=REFUSED[name]) as error:
        prepare(name, tmp_path)
    assert "\n" not in str(error.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("missing", [1, 2])
def test_a_file_cut_in_the_middle_of_a_character_is_refused(folder: Path, tmp_path: Path, missing: int) -> None:
    """Cut the corpus file once more: its README says that it ends inside a character, but it ends right after one.

    As it lies there it is valid UTF-8, and nothing tells it from a file whose last line lacks its newline.
    """
    whole = (folder / "truncated_utf8.tsv").read_bytes()
    whole.decode("utf-8")  # fails on the day that the corpus file is mended: then it belongs to REFUSED
    assert len(prepare("truncated_utf8.tsv", tmp_path / "stores")[0]) == 5
    cut = tmp_path / "cut.tsv"
    cut.write_bytes(whole[:-missing])
    with pytest.raises(UserError, match=r"cut\.tsv, line 5, byte 88 .*not UTF-8: .* in the middle of a character"):
        prepare(str(cut), tmp_path / "stores")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ACCEPTED)
def test_odd_files_go_through_and_say_what_was_skipped(folder: Path, tmp_path: Path, name: str, kind: str) -> None:
    pairs, messages = ACCEPTED[name]
    store, _ = prepare(name, tmp_path, kind=kind)
    lines = (folder / name).read_bytes().count(b"\n")
    assert len(store) == (lines if pairs is None else pairs) or messages is None
    assert messages is None or store.report.messages() == messages
    assert store.report.pairs == len(store) == store.report.lines - sum(f.count for f in store.report.skipped.values())


@pytest.mark.parametrize("name", ["no_final_newline.tsv", "crlf.tsv", "bom.tsv"])
def test_marks_and_line_ends_are_no_text(folder: Path, tmp_path: Path, name: str) -> None:
    store, _ = prepare(name, tmp_path)
    assert [src for src, _ in texts(store)] == FIVE
    assert not any("\r" in tgt for _, tgt in texts(store))


def test_odd_characters_do_not_cut_lines(folder: Path, tmp_path: Path) -> None:
    store, _ = prepare("unicode_odd.tsv", tmp_path, normalization="none")
    expected = (folder / "unicode_odd.tsv").read_bytes().decode().removesuffix("\n").split("\n")
    assert ["\t".join(pair) for pair in texts(store)] == expected
    assert len(expected) == 10


@pytest.mark.parametrize(
    "settings", [{"kind": "characters"}, {"model": "bpe"}, {"model": "unigram", "sampling": 0.3}], ids=str
)
def test_emoji_come_back_exactly(folder: Path, tmp_path: Path, settings: dict) -> None:
    store, _ = prepare("unicode_emoji.tsv", tmp_path, **settings)
    assert (
        "".join(f"{src}\t{tgt}\n" for src, tgt in texts(store)).encode() == (folder / "unicode_emoji.tsv").read_bytes()
    )


def test_decomposed_text_gives_what_composed_text_gives(folder: Path, tmp_path: Path) -> None:
    import unicodedata

    store, tokenizers = prepare("unicode_nfd.tsv", tmp_path)
    raw = (folder / "unicode_nfd.tsv").read_bytes().decode().removesuffix("\n").split("\n")
    composed = [tuple(unicodedata.normalize("NFC", line).split("\t")) for line in raw]
    assert texts(store) == composed
    assert ["\t".join(pair) for pair in composed] != raw
    for line, pair in zip(raw, composed, strict=True):
        assert tokenizers.src.encode(line.split("\t")[0]) == tokenizers.src.encode(pair[0])


@pytest.mark.parametrize("kind", KINDS)
def test_literal_specials_are_text(folder: Path, tmp_path: Path, kind: str) -> None:
    store, tokenizers = prepare("special_tokens.tsv", tmp_path, kind=kind)
    for number, pair in enumerate(texts(store)):
        for ids, text in zip((store.src_ids(number), store.tgt_ids(number)), pair, strict=True):
            assert ids.min() >= 4
            assert tokenizers.src.decode(ids.tolist()) == text
    assert any("▁" in src for src, _ in texts(store))


def test_a_vocabulary_of_one_word_a_side(folder: Path, tmp_path: Path) -> None:
    for kind, size in (("words", 5), ("characters", 5)):
        _, tokenizers = prepare("all_same.tsv", tmp_path, kind=kind, joint=False)
        assert (tokenizers.src.vocab_size, tokenizers.tgt.vocab_size) == (size, size)
    _, tokenizers = prepare("all_same.tsv", tmp_path)
    assert "fills only" in tokenizers.notices[0]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["long_line.tsv", "one_huge_token.tsv"])
def test_long_lines_are_skipped_by_number_in_bounded_time_and_memory(
    folder: Path, tmp_path: Path, name: str, kind: str
) -> None:
    start = time.monotonic()
    tracemalloc.start()
    if kind == "words" and name == "one_huge_token.tsv":  # one word, so it is as short as others
        store, _ = prepare(name, tmp_path, kind=kind)
        assert store.report.messages() == []
    else:
        store, _ = prepare(name, tmp_path, kind=kind)
        target = ["skipped, target over 200 tokens: 1 (line 2)"] if name == "long_line.tsv" else []
        assert store.report.messages() == ["skipped, source over 200 tokens: 1 (line 1)", *target]
        assert len(store) == 1
        store, _ = prepare(name, tmp_path, kind=kind, limits=250_000)
        assert len(store) == (folder / name).read_bytes().count(b"\n")
    assert tracemalloc.get_traced_memory()[1] < 100 << 20
    tracemalloc.stop()
    assert time.monotonic() - start < 30


def test_filters_count_what_they_skip(folder: Path, tmp_path: Path) -> None:
    store, _ = prepare("noisy_ratio.tsv", tmp_path, limits=20)
    skipped = sum(finding.count for finding in store.report.skipped.values())
    assert skipped > 0
    assert len(store) + skipped == store.report.lines
