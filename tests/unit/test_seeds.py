"""Several seeds: means with t-intervals, the test of two groups, and the folder of a group."""

import json
import math

import numpy as np
import pytest

from itda.errors import DamagedFileError, UserError
from itda.evaluate.metrics import Likelihood, Metric
from itda.evaluate.seeds import aggregate, aggregates, compare_groups, metrics_of, welch_p
from itda.evaluate.student import incomplete_beta, t_quantile, two_sided_p
from itda.evaluate.systems import Outputs
from itda.group import Group, is_group, parse_seeds, runs_of
from itda.run import RunFolder

# Tables of Student's t: (confidence, degrees of freedom) to the two-sided quantile.
TABLE = {(0.95, 1): 12.706205, (0.95, 2): 4.302653, (0.95, 4): 2.776445, (0.99, 30): 2.749996, (0.95, 1000): 1.962339}


@pytest.mark.parametrize("key", TABLE, ids=str)
def test_quantiles_are_those_of_the_tables(key):
    assert t_quantile(*key) == pytest.approx(TABLE[key], abs=1e-6)
    assert two_sided_p(TABLE[key], key[1]) == pytest.approx(1 - key[0], abs=1e-7)


def test_the_incomplete_beta_function_has_its_closed_forms():
    for x in (0.0, 0.1, 0.5, 0.9, 1.0):
        assert incomplete_beta(1, 3, x) == pytest.approx(1 - (1 - x) ** 3)
        assert incomplete_beta(2, 1, x) == pytest.approx(x**2)
    assert two_sided_p(1.0, 1) == pytest.approx(0.5)  # Cauchy


def test_an_aggregate_by_hand():
    found = aggregate([1.0, 2.0, 6.0])
    assert (found.mean, found.std) == (3.0, pytest.approx(math.sqrt(7)))
    assert found.high - found.mean == pytest.approx(4.302653 * math.sqrt(7) / math.sqrt(3), abs=1e-5)
    assert found.mean - found.low == pytest.approx(found.high - found.mean)
    one = aggregate([2.0])
    assert (one.mean, one.std, one.low) == (2.0, None, None)
    assert aggregate([2.0, math.inf]).mean is None
    assert json.dumps(aggregate([1.0, math.nan]).to_json(), allow_nan=False)


def test_a_t_interval_holds_the_truth_as_often_as_it_says():
    draw = np.random.default_rng(1)
    held = 0
    for _ in range(2000):
        found = aggregate(draw.normal(5.0, 2.0, size=3).tolist())
        held += found.low <= 5.0 <= found.high
    assert held / 2000 == pytest.approx(0.95, abs=0.015)


def test_welchs_test_by_hand():
    # the difference is 3, its variance 1/3 + 4/3, and the degrees of freedom (5/3)^2 / (1/18 + 16/18)
    p = welch_p([1.0, 2.0, 3.0], [3.0, 5.0, 7.0])
    assert p == pytest.approx(two_sided_p(3 / math.sqrt(5 / 3), (25 / 9) / (17 / 18)))
    assert 0.05 < p < 0.12
    assert welch_p([1.0], [2.0, 3.0]) is None
    assert (welch_p([1.0, 1.0], [1.0, 1.0]), welch_p([1.0, 1.0], [2.0, 2.0])) == (1.0, 0.0)


def group_of(draw, runs, sentences, level, spread, shared):
    """Runs whose sentence scores are the sentence's own ease, the run's own luck, and noise."""
    found = []
    for _ in range(runs):
        values = shared + level + draw.normal(0, spread) + draw.normal(0, 0.3, size=sentences)
        stats = np.column_stack([values, np.ones(sentences)])
        found.append([Metric("mean", "none", stats, lambda sums: sums[0] / sums[1])])
    return found


def test_a_comparison_of_groups_respects_the_seeds():
    """Two recipes that differ by the luck of their seeds alone are found apart as often as 1 in 20, or less."""
    draw = np.random.default_rng(7)
    naive = bootstrap = both = 0
    for trial in range(60):
        shared = draw.normal(0, 1, size=100)
        a, b = (group_of(draw, 3, 100, 0.0, 0.5, shared) for _ in range(2))
        found = compare_groups(a, b, resamples=200, seed=trial)["mean"]
        bootstrap += found.p_bootstrap < 0.05
        both += max(found.p_bootstrap, found.p_welch) < 0.05
        naive += compare_groups(a[:1], b[:1], resamples=200, seed=trial)["mean"].p_bootstrap < 0.05
    assert naive > 30, "one seed each, tested over sentences alone, sees differences that are none"
    assert bootstrap <= 20, "three seeds show two thirds of their variance"
    assert both <= 6


def test_a_comparison_of_groups_finds_a_difference_that_is_there():
    draw = np.random.default_rng(3)
    shared = draw.normal(0, 1, size=100)
    a, b = (group_of(draw, 4, 100, level, 0.1, shared) for level in (1.0, 0.0))
    found = compare_groups(a, b, resamples=500)["mean"]
    assert found.better == "a"
    assert max(found.p_bootstrap, found.p_welch) < 0.05
    assert found.low < found.difference < found.high
    assert found.low > 0
    turned = compare_groups(b, a, resamples=500)["mean"]
    assert turned.difference == pytest.approx(-found.difference)
    same = compare_groups(a, a, resamples=100)["mean"]
    assert (same.difference, same.p_welch, same.better) == (0.0, 1.0, None)
    assert compare_groups(a[:1], b, resamples=100)["mean"].p_welch is None


def test_real_metrics_are_aggregated_by_name():
    refs = ["a dog runs on the beach", "two men sit here"]
    systems = [
        metrics_of(Outputs(texts, Likelihood([3.0, nll], [2, 2], [4, 4], [20, 20])), refs)
        for texts, nll in ((refs, 1.0), (["a dog sits on the beach", "two men sit"], 2.0))
    ]
    found = aggregates(systems)
    assert list(found) == [
        "bleu", "chrf", "ter", "exact_match", "token_accuracy", "perplexity", "bits_per_character",
    ]  # fmt: skip
    assert found["exact_match"].scores == (1.0, 0.0)
    assert found["perplexity"].scores == (pytest.approx(math.exp(0.5)), pytest.approx(math.exp(5 / 8)))
    assert found["bleu"].signature.startswith("nrefs:1")


@pytest.mark.parametrize(
    ("text", "seeds"), [("3", (1, 2, 3)), ("1", (1,)), ("1,2,5", (1, 2, 5)), (" 7, 3", (7, 3)), ("0,4", (0, 4))]
)
def test_seeds_are_read(text, seeds):
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "0", "-1", "a", "1,1", "1.5", "1001", "1,-2", "1,,2", "99999999999,1"])
def test_other_seeds_are_refused(text):
    with pytest.raises(UserError, match="it must be a count, such as 3"):
        parse_seeds(text)


def test_the_folder_of_a_group(tmp_path):
    path = tmp_path / "무리"
    group = Group.claim(path, (1, 2))
    assert not path.exists(), "nothing is changed by a claim"
    RunFolder.create(group.run(1)).close()
    group.write()
    assert is_group(path)
    assert Group.open(path) == group
    assert [one.name for one in runs_of(path)] == ["seed-1", "seed-2"]
    assert runs_of(tmp_path) == [tmp_path]
    with pytest.raises(UserError, match=r"already holds the runs of seeds 1, 2; go on with --resume"):
        Group.claim(path, (1, 2))
    with pytest.raises(UserError, match=r"was begun with seeds 1, 2, and --seeds names 2, 3"):
        Group.claim(path, (2, 3), resume=True)
    assert Group.claim(path, (1, 2, 3), resume=True).seeds == (1, 2, 3)
    with pytest.raises(UserError, match=r"is a run or a file"):
        Group.claim(path / "seed-1", (1, 2))
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds other files and no group"):
        Group.claim(tmp_path, (1, 2), overwrite=True)
    with pytest.raises(UserError, match=r"is no group of runs"):
        Group.open(tmp_path)
    (path / "group.json").write_text('{"format": 1}')
    with pytest.raises(DamagedFileError, match=r"group\.json is damaged"):
        Group.open(path)


def test_a_group_that_somebody_trains_in_is_not_cleared(tmp_path):
    group = Group(tmp_path / "group", (1, 2))
    with RunFolder.create(group.run(2)) as run:
        run.update(status="training")
        with pytest.raises(UserError, match="another process is training"):
            group.clear(kept=1)
    group.clear(kept=1)
    assert not group.run(2).exists()
