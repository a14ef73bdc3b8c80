"""The alignment error rate: by hand, by law, and against its baselines."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.data.synthetic import make
from itda.errors import UserError
from itda.evaluate.alignment import Gold, alignment_error, diagonal_links, hard_links, token_spans

LINKS = st.frozensets(st.tuples(st.integers(0, 5), st.integers(0, 4)), max_size=12)
GOLDS = st.builds(lambda sure, possible: Gold(sure, possible, 6, 5), LINKS, LINKS)
WEIGHTS = st.integers(0, 2**32 - 1).map(lambda seed: np.random.default_rng(seed).dirichlet(np.ones(6), size=5))


def pointing(*chosen: int, width: int) -> np.ndarray:
    return np.eye(width)[list(chosen)]


def test_by_hand() -> None:
    """Two sure and one possible link; the three choices hit one sure, the possible one, and nothing."""
    gold = Gold(frozenset({(0, 0), (1, 1)}), frozenset({(2, 2)}), 4, 3)
    score = alignment_error([pointing(0, 3, 2, width=4)], [gold])
    assert score.error_rate == pytest.approx(1 - (1 + 2) / (3 + 2))
    assert score.precision == pytest.approx(2 / 3)
    assert score.recall == pytest.approx(1 / 2)
    assert (score.sentences, score.links) == (1, 3)


def test_the_rate_is_of_sums_over_sentences_not_a_mean_of_rates() -> None:
    long, short = (
        Gold(frozenset((i, i) for i in range(9)), frozenset(), 9, 9),
        Gold(frozenset({(0, 0)}), frozenset(), 2, 1),
    )
    score = alignment_error([np.eye(9), pointing(1, width=2)], [long, short])
    assert score.error_rate == pytest.approx(1 / 10)


def test_attention_on_gold_has_no_error_and_shifted_by_one_row_it_has() -> None:
    examples = list(make("reverse", pairs=20))
    gold = [Gold.of(example.src, example.tgt, example.alignment) for example in examples]
    exact = [np.eye(len(example.src))[::-1] for example in examples]
    assert alignment_error(exact, gold).error_rate == 0
    assert alignment_error([np.roll(matrix, 1, axis=0) for matrix in exact], gold).error_rate == 1


def test_target_positions_without_gold_are_not_scored() -> None:
    example = next(iter(make("dates", pairs=1)))
    gold = Gold.of(example.src, example.tgt, example.alignment, example.possible)
    weights = np.zeros((len(example.tgt), len(example.src)))
    for i, j in example.possible:
        weights[j, i] = 1.0
    for i, j in example.alignment:
        weights[j, i] = 2.0
    assert alignment_error([weights], [gold]).error_rate == 0
    assert {j for _, j in hard_links(weights, gold)} == {j for _, j in example.possible}


@settings(max_examples=50, deadline=None)
@given(GOLDS, WEIGHTS)
def test_rates_lie_between_zero_and_one_and_eos_changes_nothing(gold: Gold, weights: np.ndarray) -> None:
    if not gold.possible:
        return
    score = alignment_error([weights], [gold], resamples=5)
    assert 0 <= score.error_rate <= 1
    assert 0 <= score.diagonal <= 1
    assert 0 <= score.uniform <= 1
    padded = np.full((6, 7), 0.9)  # eos is the most attended column, and its row is full
    padded[:5, :6] = weights
    for with_eos in (padded, padded[:5], padded[:, :6]):
        assert alignment_error([with_eos], [gold], resamples=5) == score


@settings(max_examples=50, deadline=None)
@given(GOLDS, WEIGHTS)
def test_one_more_gold_link_that_attention_found_never_makes_it_worse(gold: Gold, weights: np.ndarray) -> None:
    found = hard_links(weights, gold)
    if not found:
        return
    before = alignment_error([weights], [gold], resamples=0).error_rate
    better = Gold(gold.sure, gold.possible | found, 6, 5)
    assert alignment_error([weights], [better], resamples=0).error_rate <= before + 1e-12


def test_the_uniform_baseline_is_the_mean_over_random_attention() -> None:
    examples = list(make("dates", pairs=20))
    gold = [Gold.of(e.src, e.tgt, e.alignment, e.possible) for e in examples]
    random = np.random.default_rng(0)
    drawn = [
        alignment_error([random.random((g.tgt_length, g.src_length)) for g in gold], gold, resamples=0).error_rate
        for _ in range(300)
    ]
    expected = alignment_error([np.ones((g.tgt_length, g.src_length)) for g in gold], gold, resamples=0).uniform
    assert np.mean(drawn) == pytest.approx(expected, abs=0.005)


def test_the_diagonal_baseline_is_exact_on_a_copy_and_wrong_on_a_reversal() -> None:
    copy = Gold(frozenset((i, i) for i in range(6)), frozenset(), 6, 6)
    assert alignment_error([np.eye(6)], [copy]).diagonal == 0
    reverse = Gold(frozenset((5 - i, i) for i in range(6)), frozenset(), 6, 6)
    assert alignment_error([np.eye(6)], [reverse]).diagonal == 1
    assert diagonal_links(Gold(frozenset({(0, 0), (0, 1)}), frozenset(), 1, 2)) == {(0, 0), (0, 1)}


def test_the_interval_covers_the_rate_and_is_the_same_for_the_same_seed() -> None:
    examples = list(make("reverse", pairs=100))
    gold = [Gold.of(e.src, e.tgt, e.alignment) for e in examples]
    random = np.random.default_rng(3)
    weights = [np.eye(len(e.src))[::-1] + random.random((len(e.src), len(e.src))) * 1.2 for e in examples]
    score, again, other = (alignment_error(weights, gold, seed=seed) for seed in (1, 1, 2))
    assert score == again
    assert (score.low, score.high) != (other.low, other.high)
    assert 0 < score.low < score.error_rate < score.high < 1


def test_a_threshold_drops_undecided_rows() -> None:
    gold = Gold(frozenset({(0, 0), (1, 1)}), frozenset(), 2, 2)
    weights = np.array([[0.9, 0.1], [0.49, 0.51]])
    assert hard_links(weights, gold) == {(0, 0), (1, 1)}
    assert hard_links(weights, gold, threshold=0.6) == {(0, 0)}
    assert alignment_error([weights], [gold], threshold=0.6).error_rate == pytest.approx(1 - 2 / 3)


def test_characters_are_lifted_to_tokens() -> None:
    """ "ein Haus" -> "a house", one link for each word's letters; tokens: ein|▁Ha|us, a|▁house."""
    sure = {(i, 0) for i in range(3)} | {(4 + i, 2 + j) for i in range(4) for j in range(5)}
    gold = Gold.of("ein Haus", "a house", sure)
    src, tgt = token_spans("ein Haus", ["▁ein", "▁Ha", "us"]), token_spans("a house", ["▁a", "▁house"])
    assert (src, tgt) == ([(0, 3), (3, 6), (6, 8)], [(0, 1), (1, 7)])
    assert gold.to_tokens(src, tgt).sure == {(0, 0), (1, 1), (2, 1)}


@pytest.mark.parametrize("pieces", [["▁24", ".", "▁3", "."], ["24", ".", "3", "."], list("24. 3."), ["24.", "▁3."]])
def test_spans_cover_the_text_in_order(pieces: list[str]) -> None:
    spans = token_spans("24. 3.", pieces)
    assert "".join("24. 3."[start:end] for start, end in spans).replace(" ", "") == "24.3."
    assert all(start < end for start, end in spans)


def test_lifting_to_single_characters_changes_nothing() -> None:
    for example in make("dates", pairs=30):
        gold = Gold.of(example.src, example.tgt, example.alignment, example.possible)
        assert (
            gold.to_tokens(token_spans(example.src, list(example.src)), token_spans(example.tgt, list(example.tgt)))
            == gold
        )


def test_pharaoh_lines_read_back() -> None:
    for example in make("dates", pairs=30):
        read = Gold.parse(example.pharaoh(), len(example.src), len(example.tgt))
        assert read == Gold.of(example.src, example.tgt, example.alignment, example.possible)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: hard_links(np.ones((4, 3)), Gold(frozenset(), frozenset(), 4, 3)), ["(4, 3)", "(3, 4)", "eos"]),
        (lambda: hard_links(np.ones((5, 6)), Gold(frozenset(), frozenset(), 4, 3)), ["(5, 6)"]),
        (lambda: Gold(frozenset({(4, 0)}), frozenset(), 4, 3), ["4-0", "4 source"]),
        (lambda: Gold.parse("0-0 1:1", 2, 2), ["'1:1'", "i-j"]),
        (lambda: token_spans("abc", ["a", "x"]), ["'x'", "character 1"]),
        (lambda: alignment_error([], []), ["no gold"]),
        (lambda: alignment_error([np.eye(2)], [Gold(frozenset(), frozenset(), 2, 2)]), ["no gold"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(call: object, words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        call()  # type: ignore[operator]
    assert all(word in str(caught.value) for word in words), caught.value
