"""Beam search and its parts, case by case, on a decoder that is a table."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from itda.batch import BOS, EOS, PAD, UNK
from itda.decode.ranking import Front, choose_by_rank, choose_greedily
from itda.decode.scores import BLOCK, best, top_continuations
from itda.decode.search import beam_search
from itda.errors import ItdaError, UserError
from itda.nn.interface import Decoded, Decoder, Head, Memory, State

A, B, C = 4, 5, 6
NEVER = float("-inf")


class TableDecoder(Decoder):
    """Looks up what may follow the previous token, for each sentence apart; its state is the position."""

    def __init__(self, tables: list[dict[int, dict[int, float]]], vocab: int = 7) -> None:
        super().__init__()
        self.dim = vocab
        self.steps: list[int] = []  # sentences in the batch of each step
        self.table = torch.full((len(tables), vocab, vocab), NEVER)
        for sentence, table in enumerate(tables):
            for previous, following in table.items():
                for token, probability in following.items():
                    self.table[sentence, previous, token] = math.log(probability)

    def start(self, memory):
        return State(memory, torch.arange(len(memory.mask)), torch.zeros(len(memory.mask), dtype=torch.long))

    def step(self, previous, state):
        self.steps.append(len(state.memory.mask))
        rows = self.table[state.keys.repeat_interleave(state.width), previous]
        return Decoded(rows[:, None]), replace(state, cache=state.cache + 1)

    def forward(self, tgt_in, memory, *, weights=False):
        raise NotImplementedError


class TableHead(Head):
    """Features are log-probabilities."""

    def loss(self, decoded, target, memory):
        raise NotImplementedError

    scores = predict = loss

    def log_probs(self, decoded, memory, candidates=None):
        return decoded.features


def search(*tables, limits=None, vocab=7, **options):
    decoder = TableDecoder(list(tables), vocab)
    memory = Memory(torch.zeros(len(tables), 2, 1), torch.ones(len(tables), 2, dtype=torch.bool))
    limits = torch.tensor(limits if limits is not None else [5] * len(tables))
    return beam_search(decoder, TableHead(), memory, max_lengths=limits, **options), decoder


GARDEN = {BOS: {A: 0.6, B: 0.4}, A: {EOS: 0.3, C: 0.7}, C: {A: 0.5, EOS: 0.5}, B: {EOS: 1.0}}


def test_a_beam_finds_what_greedy_search_misses():
    (greedy,), _ = search(GARDEN, beam_size=1, limits=[2])
    (wide,), _ = search(GARDEN, beam_size=2, limits=[2])
    assert greedy[0].ids == (A, C)
    assert greedy[0].log_prob == pytest.approx(math.log(0.6 * 0.7 * 0.5))
    assert wide[0].ids == (B,)
    assert wide[0].score == pytest.approx(math.log(0.4) / 2)
    assert wide[0].token_log_probs == pytest.approx((math.log(0.4), 0.0))


def test_greedy_search_stops_at_the_first_eos_even_where_going_on_would_score_better():
    table = {BOS: {EOS: 0.5, A: 0.4, B: 0.1}, A: {A: 1.0}}
    (found,), _ = search(table, beam_size=1)
    assert found[0].ids == ()


def test_a_hypothesis_that_closes_leaves_no_gap_in_the_beam():
    table = {BOS: {EOS: 0.4, A: 0.35, B: 0.25}, A: {C: 0.9, EOS: 0.1}, B: {EOS: 1.0}, C: {EOS: 0.5, C: 0.5}}
    (found,), _ = search(table, beam_size=2, n_best=2, length_penalty=0.0)
    assert [hypothesis.ids for hypothesis in found] == [(), (B,)]


def test_the_length_penalty_decides_between_short_and_long():
    table = {BOS: {EOS: 0.5, A: 0.5}, A: {B: 0.9, C: 0.1}, B: {EOS: 0.9, C: 0.1}, C: {EOS: 1.0}}
    short, _ = search(table, beam_size=3, length_penalty=0.0)
    long, _ = search(table, beam_size=3, length_penalty=1.0)
    assert short[0][0].ids == ()
    assert long[0][0].ids == (A, B)


def test_at_the_limit_eos_closes_at_its_true_probability():
    table = {BOS: {A: 0.9, EOS: 0.1}, A: {A: 0.99, EOS: 0.01}}
    (found,), decoder = search(table, beam_size=1, limits=[3])
    assert found[0].ids == (A, A, A)
    assert found[0].finished
    assert found[0].token_log_probs[-1] == pytest.approx(math.log(0.01))
    assert len(decoder.steps) == 4


def test_a_limit_of_0_gives_the_empty_sentence():
    (found,), _ = search(GARDEN | {BOS: {A: 0.9, EOS: 0.1}}, beam_size=3, limits=[0])
    assert [hypothesis.ids for hypothesis in found] == [()]


def test_unk_is_written_but_pad_and_bos_never_are():
    table = {BOS: {PAD: 0.4, BOS: 0.3, UNK: 0.2, EOS: 0.1}, UNK: {PAD: 0.7, BOS: 0.2, EOS: 0.1}}
    (found,), _ = search(table, beam_size=4, n_best=4)
    assert [hypothesis.ids for hypothesis in found] == [(UNK,), ()]


def test_a_dead_end_gives_the_prefix_and_says_so():
    found, _ = search(
        {BOS: {A: 0.5, B: 0.25}, A: {C: 1.0}}, {BOS: {EOS: 1.0}}, {BOS: {PAD: 1.0}}, beam_size=2, n_best=2
    )
    stuck, fine, nothing = found
    assert [(h.ids, h.finished) for h in stuck] == [((A, C), False)]
    assert stuck[0].log_prob == pytest.approx(math.log(0.5))
    assert stuck[0].token_log_probs == pytest.approx((math.log(0.5), 0.0))
    assert [(h.ids, h.finished) for h in fine] == [((), True)]
    assert [(h.ids, h.finished, h.log_prob, h.token_log_probs) for h in nothing] == [((), False, 0.0, ())]


def test_eos_that_is_impossible_at_the_limit_gives_the_prefix():
    (found,), _ = search({BOS: {A: 1.0}, A: {A: 1.0}}, beam_size=2, limits=[2])
    assert [(h.ids, h.finished, h.score) for h in found] == [((A, A), False, 0.0)]


def test_nan_is_an_error_that_says_where():
    table = {BOS: {A: 1.0}, A: {A: 0.5, B: float("nan")}}
    with pytest.raises(ItdaError, match="position 2 are NaN"):
        search({BOS: {EOS: 1.0}}, table, beam_size=2)


def test_sentences_leave_the_batch_when_they_are_done():
    short, long = {BOS: {EOS: 1.0}}, {BOS: {A: 1.0}, A: {A: 0.9, EOS: 0.1}}
    _, decoder = search(short, long, long, limits=[9, 2, 4], beam_size=1)
    assert decoder.steps == [3, 2, 2, 1, 1]


def test_the_search_stops_when_nothing_can_win_any_more():
    table = {BOS: {EOS: 0.9, A: 0.1}, A: {A: 0.9, EOS: 0.1}}
    (found,), decoder = search(table, beam_size=5, limits=[50], length_penalty=0.0)
    assert found[0].ids == ()
    assert len(decoder.steps) == 1


def test_equals_are_taken_in_order():
    even = dict.fromkeys((EOS, A, B, C), 1 / 4)
    (found,), _ = search(dict.fromkeys((BOS, A, B, C), even), beam_size=9, n_best=9, limits=[2], length_penalty=0)
    assert [hypothesis.ids for hypothesis in found[:4]] == [(), (A,), (B,), (C,)]


def test_an_empty_batch_gives_an_empty_list():
    memory = Memory(torch.zeros(0, 2, 1), torch.ones(0, 2, dtype=torch.bool))
    assert (
        beam_search(TableDecoder([]), TableHead(), memory, beam_size=2, max_lengths=torch.zeros(0, dtype=torch.long))
        == []
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size is 0; it must be 1 or more"),
        ({"beam_size": 2, "n_best": 3}, "n_best is 3; it must be 1 to beam_size, 2"),
        ({"beam_size": 2, "n_best": 0}, "n_best is 0"),
        ({"beam_size": 2, "length_penalty": -0.5}, "length_penalty is -0.5"),
        ({"beam_size": 2, "length_penalty": float("nan")}, "length_penalty is nan"),
    ],
)
def test_settings_that_make_no_sense_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        search(GARDEN, **options)


@pytest.mark.parametrize("vocab", [5, BLOCK + 3, BLOCK + 4, 7 * BLOCK, 7 * BLOCK + 5, 20 * BLOCK + 1])
@pytest.mark.parametrize("ties", [False, True])
def test_top_continuations_are_those_of_a_full_sort(vocab, ties):
    torch.manual_seed(vocab)
    for width, count in [(1, 2), (1, 10), (5, 10), (3, 40)]:
        log_probs = torch.randn(6, width, vocab)
        totals = torch.randn(6, width, dtype=torch.float64)
        if ties:
            log_probs, totals = (log_probs * 2).round() / 2, totals.round()
        before = log_probs.clone()
        sums, beams, tokens = top_continuations(totals, log_probs, count)
        assert torch.equal(before, log_probs)
        full = totals[:, :, None] + log_probs
        full[:, :, [PAD, BOS]] = NEVER
        expected = full.flatten(1).sort(dim=1, descending=True, stable=True)
        real = min(count, width * (vocab - 2))
        assert torch.equal(sums[:, :real], expected.values[:, :real])
        assert (sums[:, real:] == NEVER).all()
        assert torch.equal(full[torch.arange(6)[:, None], beams, tokens][:, :real], sums[:, :real])
        places = (beams * vocab + tokens)[:, :real]
        assert all(len(set(row.tolist())) == real for row in places)
        if width == 1 or not ties:  # between beams the order of equals is fixed, but another one
            assert torch.equal(places, expected.indices[:, :real])


@pytest.mark.parametrize("vocab", [5, BLOCK + 3, 7 * BLOCK, 7 * BLOCK + 5])
@pytest.mark.parametrize("ties", [False, True])
def test_greedy_search_chooses_as_a_beam_of_one_ranks(vocab, ties):
    log_probs = torch.randn(200, 1, vocab, generator=torch.Generator().manual_seed(vocab))
    log_probs[:60, :, EOS] += 3.0  # near the best
    if ties:
        log_probs = (log_probs * 2).round() / 2
    log_probs[150:155] = NEVER  # nothing may follow
    log_probs[155:160, :, EOS + 1 :] = NEVER
    totals = torch.zeros(200, 1, dtype=torch.float64)
    totals[160:165] = NEVER  # what lives on no more
    at_limit = torch.arange(200) % 7 == 0
    front = Front(totals, log_probs, log_probs, log_probs[:, :, EOS], at_limit, 3, np.arange(200))
    step, expected = choose_greedily(front), choose_by_rank(front, 1)
    assert torch.equal(step.totals, expected.totals)
    assert torch.equal(step.closed, expected.closed)
    assert (expected.closed > NEVER).any()
    lives = (front.totals + log_probs.amax(dim=2) > NEVER)[:, 0] & ~at_limit
    assert torch.equal(step.tokens[lives], expected.tokens[lives])
    assert torch.equal(step.log_probs[lives], expected.log_probs[lives])
    log_probs[7, 0, vocab - 1] = float("nan")
    assert choose_greedily(replace(front, at_limit=None)).totals[7].isnan()


@pytest.mark.parametrize("count", [1, 3, 8, 20])
def test_best_takes_the_first_of_equals(count):
    values = torch.randint(0, 5, (50, 20), generator=torch.Generator().manual_seed(count)).float()
    ranked, places = best(values, count)
    order = np.lexsort((np.arange(20)[None].repeat(50, 0), -values.numpy()), axis=1)
    assert places.tolist() == order[:, :count].tolist()
    assert torch.equal(ranked, values.gather(1, places))
