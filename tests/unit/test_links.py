"""Alignments: read with their pairs, lifted to tokens, and carried to the batch without ever being shifted."""

import random
from pathlib import Path

import numpy as np
import pytest

from itda.batch import Batch
from itda.config import DataConfig, TokenizerConfig
from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.data.links import alignment_matrix, find_alignments, parse_links
from itda.data.plan import plan_for
from itda.data.store import Store, build_store
from itda.data.synthetic import make
from itda.errors import UserError
from itda.text.tokenizer import TokenizerPair, train_tokenizers
from itda.text.units import respelled, unit_spans
from itda.training.dataset import text_dataset

WORDS = ["dog", "cat's", "runs,", "sitting", "각하", "wasser", "réd", "ca\u0301fe", "no\u2009where", "x▁y", "two."]


def corpus(folder: Path, count: int = 60) -> None:
    """Targets are their sources shuffled, with each word linked to itself; some lines are blank or long."""
    draw, pairs, links = random.Random(1), [], []
    for number in range(count):
        if number % 9 == 4:
            pairs.append("\t only one side")
            links.append("")
            continue
        words = [word.replace("\u2009", "") for word in draw.sample(WORDS, draw.randint(1, 9 if number % 7 else 11))]
        order = draw.sample(range(len(words)), len(words))
        pairs.append(" ".join(words) + "\t" + " ".join(words[i] for i in order))
        kept = [f"{i}{draw.choice('-?')}{j}" for j, i in enumerate(order) if draw.random() < 0.8]
        links.append("  ".join(draw.sample(kept, len(kept))))
    (folder / "pairs.tsv").write_text("".join(f"{one}\n" for one in pairs), encoding="utf-8")
    (folder / "pairs.align").write_text("".join(f"{one}\n" for one in links), encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("links")
    corpus(folder)
    return folder


def data_of(folder: Path, **settings) -> DataConfig:
    return DataConfig(train=str(folder / "pairs.tsv"), alignments=str(folder / "pairs.align"), **settings)


def tokenizers_of(data: DataConfig, **settings) -> TokenizerPair:
    config = TokenizerConfig(**{"vocab_size": 340, **settings})
    return train_tokenizers(config, lambda: ((p.src, p.tgt) for p in read_pairs(locate(data.train), swap=data.swap)), 1)


def store_of(data: DataConfig, tokenizers: TokenizerPair, folder: Path) -> Store:
    return build_store(locate(data.train), tokenizers, data, folder, alignments=find_alignments(data))


def word_of_tokens(pieces: list[bytes]) -> list[int]:
    """Count the words in front, token by token: the slow and plain way; -1 for a space alone."""
    found, text = [], b""
    for piece in pieces:
        before = len((text + b"|").decode("utf-8", "replace").split()) - 1 if not text or text[-1:].isspace() else None
        found.append(
            -1 if not piece.strip() else before if before is not None else len(text.split()) - (not piece[:1].isspace())
        )
        text += piece
    return found


KINDS = {
    "words": {"kind": "words"},
    "rare": {"kind": "words", "vocab_size": 8},
    "characters": {"kind": "characters"},
    "subwords": {},
    "sampled": {"sampling": 0.3},
    "unigram": {"model": "unigram", "sampling": 0.5},
}


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_links_what_its_lines_link(kind, swap, place, tmp_path):
    """Through skipped lines, limits, shuffling, batching and sampling: each token to those of its own word."""
    data = data_of(place, swap=swap, max_src_length=45)
    tokenizers = tokenizers_of(data, **KINDS[kind])
    store = store_of(data, tokenizers, tmp_path / "stores")
    if kind == "characters":
        assert any("over 45" in reason for reason in store.report.skipped)
    plan = plan_for(store, tokenizers, 7, "sentences", 2, 1)
    lines = [parse_links(line) for line in (place / "pairs.align").read_text(encoding="utf-8").split("\n")]
    dataset, seen = text_dataset(store, None, plan, tokenizers), 0
    for epoch in range(2):
        for update in dataset.update(epoch, 0):
            for batch in update.batches:
                seen += check(batch, store, tokenizers, lines, swap)
    assert seen > 300


def check(batch: Batch, store: Store, tokenizers: TokenizerPair, lines, swap: bool) -> int:
    """Hold each row against its line; how many links there were."""
    total = 0
    for row, number in enumerate(batch.index):
        line = lines[store.line(number) - 1]
        links = {(j, i) if swap else (i, j) for i, j in line[0] | line[1]}
        sides = []
        for side, tokenizer, text in (
            (batch.src, tokenizers.src, store.src_text(number)),
            (batch.tgt_out, tokenizers.tgt, store.tgt_text(number)),
        ):
            ids = side.ids[row][side.mask[row]].tolist()[:-1]
            known = [raw for _, raw in tokenizer.parts(text)] if tokenizer.deterministic else None
            pieces = known or [tokenizer.spelling[i] for i in ids]
            assert len(pieces) == len(ids)
            sides.append(word_of_tokens(pieces))
        matrix = batch.alignment[row].numpy()
        expected = np.zeros_like(matrix)
        for j, other in enumerate(sides[1]):
            for i, one in enumerate(sides[0]):
                expected[j, i] = (one, other) in links
        total += int(expected.sum())
        np.testing.assert_allclose(matrix, expected / np.maximum(expected.sum(1, keepdims=True), 1))
    return total


def test_the_links_of_a_generator_count_characters(tmp_path):
    data = DataConfig(train="make:dates/train", pairs=40, alignments="make:dates/train", alignment_unit="characters")
    pairs = lambda: ((one.src, one.tgt) for one in make("dates", pairs=40))  # noqa: E731
    tokenizers = train_tokenizers(TokenizerConfig(kind="characters"), pairs, 1)
    files = locate(data.train, pairs=40)
    store = build_store(files, tokenizers, data, tmp_path / "stores", alignments=find_alignments(data))
    for number, example in enumerate(make("dates", pairs=40)):
        assert {tuple(link) for link in store.links(number).tolist()} == example.possible


def test_tokens_may_be_counted_themselves(tmp_path):
    (tmp_path / "pairs.tsv").write_text("ab c\tcab\n", encoding="utf-8")
    (tmp_path / "pairs.align").write_text("3-0 0-1\n", encoding="utf-8")
    data = data_of(tmp_path, alignment_unit="tokens")
    store = store_of(data, tokenizers_of(data, kind="characters"), tmp_path / "stores")
    assert store.links(0).tolist() == [[0, 1], [3, 0]]


@pytest.mark.parametrize(
    ("text", "unit", "form", "spans"),
    [
        ("ab  cd", "words", "nfc", [(0, 2), (4, 6)]),
        ("ab  cd", "characters", "nfc", [(n, n + 1) for n in range(6)]),
        ("㎏ x", "characters", "nfkc", [(0, 2), (2, 3), (3, 4)]),
        ("㎏ x", "words", "nfkc", [(0, 2), (3, 4)]),
        ("e\u0301", "words", "nfc", [(0, 1)]),
        ("e\u0301", "characters", "nfc", None),
        ("a\u00b4b", "words", "nfkc", None),
    ],
)
def test_where_normalisation_moves_positions_they_are_found_or_refused(text, unit, form, spans):
    tokenizer = train_tokenizers(
        TokenizerConfig(kind="characters", normalization=form), lambda: iter([("a", text)]), 1
    ).tgt
    assert unit_spans(tokenizer, text, unit) == spans


def test_links_whose_positions_cannot_be_trusted_are_left_out_and_told(tmp_path):
    (tmp_path / "pairs.tsv").write_text("a b\tb a\na\u00b4b c\tc d\n", encoding="utf-8")
    (tmp_path / "pairs.align").write_text("0-1\n1-0\n", encoding="utf-8")
    data = data_of(tmp_path)
    store = store_of(data, tokenizers_of(data, kind="words", normalization="nfkc"), tmp_path / "stores")
    assert [store.links(n).tolist() for n in range(2)] == [[[0, 1]], []]
    assert any("links left out" in message and "line 2" in message for message in store.report.messages())


def test_spellings_are_carried_over_without_their_spaces():
    assert respelled([b" wor", b"d", b" x"], [b" ", b"w", b"ord", b" ", b"x"]) == [(1, 3), (2, 3), (4, 5)]


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["0-0", "0-0"], r"pairs\.align has 2 lines, and its corpus has a pair on line 3"),
        (["0-0", "0-0", "0-0", ""], r"pairs\.align has 4 lines, and its corpus has 3;"),
        (["0-0", "1-0 2-1", "0-0"], r"line 2: link 2-1 points outside its pair of 2 and 2 words"),
        (["0-0", "0-0", "0:0"], r"line 3: alignment link '0:0' is not understood"),
        (["", "", ""], r"has no link for any pair"),
    ],
)
@pytest.mark.parametrize("swap", [False, True])
def test_what_does_not_fit_is_refused_with_its_line(lines, words, swap, tmp_path):
    (tmp_path / "pairs.tsv").write_text("a b\tc d\n" * 3, encoding="utf-8")
    (tmp_path / "pairs.align").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    data = data_of(tmp_path, swap=swap)
    tokenizers = tokenizers_of(data, kind="words")
    with pytest.raises(UserError, match=words):
        store_of(data, tokenizers, tmp_path / "stores")
    assert not list((tmp_path / "stores").iterdir())


def test_a_store_with_other_links_is_another_one(place, tmp_path):
    data = data_of(place)
    tokenizers = tokenizers_of(data, kind="words")
    plain = build_store(locate(data.train), tokenizers, data, tmp_path)
    aligned = store_of(data, tokenizers, tmp_path)
    again = store_of(data, tokenizers, tmp_path)
    counted = store_of(data_of(place, alignment_unit="characters"), tokenizers, tmp_path)
    assert not plain.aligned
    assert aligned.folder == again.folder != plain.folder
    assert counted.folder not in (aligned.folder, plain.folder)
    assert len(aligned.inputs) == 2


def test_a_row_is_a_distribution():
    matrix = alignment_matrix(
        [np.array([[0, 1], [2, 1], [1, 0]], dtype=np.int32), np.zeros((0, 2), dtype=np.int32)], 3, 3
    )
    assert matrix[0].tolist() == [[0, 1, 0], [0.5, 0, 0.5], [0, 0, 0]]
    assert not matrix[1].any()
