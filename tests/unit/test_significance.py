"""The paired tests agree with counting every case, and with sacrebleu's own."""

import io
import itertools
import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER
from sacrebleu.significance import PairedTest

from itda.errors import UserError
from itda.evaluate.bootstrap import resampled_scores
from itda.evaluate.metrics import Likelihood, text_metrics
from itda.evaluate.report import comparison_table, verdict
from itda.evaluate.significance import (
    bootstrap_p,
    compare,
    randomization_p,
    randomized_differences,
    swapped_differences,
)

REFERENCES = ["a dog runs on the beach", "two men sit here", "the cat sleeps", "a red ball", "she reads a book"]
GOOD = ["a dog runs on a beach", "two men sit here", "the cat sleeps", "a red ball", "she reads the book"]
BAD = ["a dog walks on a beach", "two man sit", "the cat sleeps", "a ball", "she reads"]


def system(references, seed, error):
    dice = np.random.default_rng(seed)
    return [" ".join("x" if dice.random() < error else word for word in reference.split()) for reference in references]


def test_bootstrap_agrees_with_every_possible_draw():
    [a], [b] = text_metrics(GOOD, REFERENCES, ["chrf"]), text_metrics(BAD, REFERENCES, ["chrf"])
    every = np.array(list(itertools.product(range(5), repeat=5)))
    exact = np.array([a.take(rows).score - b.take(rows).score for rows in every])
    values_a, values_b = resampled_scores([a, b], 20_000, 1)
    drawn = values_a - values_b
    assert drawn.mean() == pytest.approx(exact.mean(), abs=0.15)
    assert np.mean(drawn <= 1e-9) == pytest.approx(np.mean(exact <= 1e-9), abs=0.002)
    assert bootstrap_p(drawn) == pytest.approx(bootstrap_p(exact), abs=0.004)


@pytest.mark.parametrize("name", ["bleu", "chrf", "ter", "exact_match"])
def test_randomisation_agrees_with_every_possible_swap(name):
    [a], [b] = text_metrics(GOOD, REFERENCES, [name]), text_metrics(BAD, REFERENCES, [name])
    every = list(itertools.product([False, True], repeat=5))
    exact = []
    for swaps in every:
        first = [bad if swap else good for good, bad, swap in zip(GOOD, BAD, swaps, strict=True)]
        second = [good if swap else bad for good, bad, swap in zip(GOOD, BAD, swaps, strict=True)]
        [of_first], [of_second] = text_metrics(first, REFERENCES, [name]), text_metrics(second, REFERENCES, [name])
        exact.append(of_first.score - of_second.score)
    assert swapped_differences(a, b, np.array(every)) == pytest.approx(np.array(exact))
    observed = a.score - b.score
    share = np.mean(np.abs(exact) >= abs(observed) - 1e-9)
    [drawn] = randomized_differences([a], [b], 20_000, 1)
    assert randomization_p(drawn, observed) == pytest.approx(share, abs=0.015)


@pytest.mark.parametrize("error", [0.11, 0.13])
def test_agrees_with_sacrebleu(error):
    """Ours differ from its tests in two ways, both stricter.

    Its randomisation leaves out the shuffles that differ exactly as much as was observed (a system against itself
    gets p = 0.0001); its bootstrap centres the absolute differences, which is one-sided for a clear winner.
    """
    numbers = ["one", "two", "three", "four", "five", "six"]
    references = [" ".join(drawn) for drawn in itertools.permutations(numbers, 4)][:120]
    first, second = system(references, 1, 0.1), system(references, 2, error)
    scorers = {"BLEU": BLEU(tokenize="13a", force=True), "chrF2": CHRF(), "TER": TER(case_sensitive=True)}
    ours = compare(first, second, references)
    of_first, of_second = text_metrics(first, references)[:3], text_metrics(second, references)[:3]
    shuffled = randomized_differences(of_first, of_second, 4000, 1)
    draws = resampled_scores([*of_first, *of_second], 2000, 1)
    named = [("a", first), ("b", second)]
    _, randomised = PairedTest(named, scorers, [references], test_type="ar", n_samples=4000)()
    _, resampled = PairedTest(named, scorers, [references], test_type="bs", n_samples=2000)()
    for name, label, values, values_a, values_b in zip(
        ("bleu", "chrf", "ter"), scorers, shuffled, draws[:3], draws[3:], strict=True
    ):
        found = ours[name]
        assert (found.score_a, found.score_b) == tuple(result.score for result in randomised[label])
        above = np.mean(np.abs(values) > abs(found.difference) + 1e-9)
        assert above == pytest.approx(randomised[label][1].p_value, abs=0.03)
        ties = np.mean(np.abs(values) >= abs(found.difference) - 1e-9) - above
        assert found.p_randomization == pytest.approx(randomised[label][1].p_value + ties, abs=0.03)
        absolute = np.abs(values_a - values_b)
        centred = np.mean(absolute - absolute.mean() > abs(found.difference))
        assert centred == pytest.approx(resampled[label][1].p_value, abs=0.03)
        assert found.p_bootstrap == pytest.approx(found.p_randomization, abs=0.05)


def test_a_clear_winner_wins_in_every_direction():
    references = REFERENCES * 20
    found = compare(references, system(references, 1, 0.3), references)
    for difference in found.differences.values():
        assert difference.better == "a", difference.metric
        assert difference.wins_a > 0.99
        assert difference.wins_b == 0.0
        assert max(difference.p_bootstrap, difference.p_randomization) < 0.01
        assert verdict(difference, "new", "old") == "new is better"
    assert found["ter"].difference < 0 < found["bleu"].difference
    back = compare(system(references, 1, 0.3), references, references)
    for name, difference in back.differences.items():
        assert difference.better == "b"
        assert difference.difference == -found[name].difference
        assert (difference.low, difference.high) == (-found[name].high, -found[name].low)
        assert difference.p_bootstrap == found[name].p_bootstrap


def test_a_system_never_beats_itself():
    outputs = system(REFERENCES, 1, 0.3)
    for difference in compare(outputs, outputs, REFERENCES).differences.values():
        assert (difference.difference, difference.low, difference.high) == (0.0, 0.0, 0.0)
        assert (difference.p_bootstrap, difference.p_randomization) == (1.0, 1.0)
        assert difference.better is None
        assert (difference.wins_a, difference.wins_b) == (0.0, 0.0)


def test_false_alarms_are_as_rare_as_promised():
    """Two systems of one quality: p < 0.1 in about a tenth of the test sets, by either test."""
    alarms = np.zeros(2)
    for trial in range(60):
        dice = np.random.default_rng(trial)
        references = ["r"] * 60
        outputs = [["r" if coin else "w" for coin in dice.random(60) < 0.7] for _ in range(2)]
        [a], [b] = (text_metrics(texts, references, ["exact_match"]) for texts in outputs)
        values_a, values_b = resampled_scores([a, b], 400, trial)
        [shuffled] = randomized_differences([a], [b], 400, trial)
        p_values = bootstrap_p(values_a - values_b), randomization_p(shuffled, a.score - b.score)
        alarms += np.array(p_values) < 0.1
    assert (alarms / 60 < 0.2).all(), alarms


def test_seeded_and_json():
    first = compare(GOOD, BAD, REFERENCES)
    assert first == compare(GOOD, BAD, REFERENCES)
    other = compare(GOOD, BAD, REFERENCES, seed=2)
    assert first["chrf"].p_randomization != other["chrf"].p_randomization
    written = json.loads(json.dumps(first.to_json(), allow_nan=False))
    assert written["differences"]["bleu"]["better"] == "a"
    assert written["sentences"] == 5


@given(st.lists(st.sampled_from([0.0, 2.0, math.inf]), min_size=10, max_size=10))
@settings(deadline=None, max_examples=15)
def test_infinite_likelihoods_make_no_nan(nll):
    of_a, of_b = (Likelihood(half, [1] * 5, [2] * 5, [0, 0, 0, 0, 1]) for half in (nll[:5], nll[5:]))
    found = compare(GOOD, BAD, REFERENCES, likelihood_a=of_a, likelihood_b=of_b, resamples=50, trials=50)
    json.dumps(found.to_json(), allow_nan=False)
    if math.inf in nll:
        assert found["perplexity"].p_bootstrap is None
        assert verdict(found["perplexity"], "a", "b") == "not comparable"


def test_resamples_without_a_character_are_ties():
    """Most draws hold no character, so both systems score infinity there: a tie, not a nan that no count sees."""
    equal = Likelihood([2.0] * 5, [1] * 5, [2] * 5, [0, 0, 0, 0, 1])
    found = compare(GOOD, BAD, REFERENCES, likelihood_a=equal, likelihood_b=equal)["bits_per_character"]
    assert (found.difference, found.low, found.high) == (0.0, 0.0, 0.0)
    assert (found.p_bootstrap, found.p_randomization) == (1.0, 1.0)


def test_chunks_change_nothing(monkeypatch):
    metrics = text_metrics(GOOD, REFERENCES), text_metrics(BAD, REFERENCES)
    whole = randomized_differences(*metrics, 101, 1)
    monkeypatch.setattr("itda.evaluate.significance.CHUNK", 64 * 5)
    for one, other in zip(whole, randomized_differences(*metrics, 101, 1), strict=True):
        assert np.array_equal(one, other)


def test_unequal_counts_name_both():
    with pytest.raises(UserError, match="got 1 hypotheses of a and 2 hypotheses of b"):
        compare(["a"], ["a", "b"], ["a"])
    with pytest.raises(UserError, match="got 1 hypotheses of a and 2 references"):
        compare(["a"], ["a"], ["a", "b"])
    with pytest.raises(UserError, match="got 0 hypotheses of a"):
        compare([], [], [])
    with pytest.raises(UserError, match="trials is 0; it must be 1 or more"):
        compare(["a"], ["a"], ["a"], trials=0)


def test_table_names_the_systems():
    console = Console(width=140, file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with console.capture() as captured:
        console.print(comparison_table(compare(GOOD, BAD, REFERENCES), "attention", "plain"))
    text = captured.get()
    text.encode("ascii")
    for word in ("attention", "plain", "BLEU", "no significant difference", "1000 resamples"):
        assert word in text
