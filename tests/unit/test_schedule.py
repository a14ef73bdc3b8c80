"""Learning rate and teacher forcing as functions of where training stands."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.config import TeacherForcingConfig, TrainConfig
from itda.training.schedule import forcing_ratio, learning_rate

RATES = ("constant", "inverse-sqrt", "cosine", "plateau")
DECAYS = ("linear", "inverse-sigmoid", "exponential")
calm = settings(deadline=None, max_examples=50, derandomize=True)


def rates(config, updates=100):
    return [learning_rate(config, step, step / updates) for step in range(updates)]


@pytest.mark.parametrize("schedule", RATES)
def test_warm_up_is_a_straight_line_to_the_peak(schedule):
    config = TrainConfig(learning_rate=0.5, schedule=schedule, warmup=10)
    found = rates(config)
    assert found[:10] == pytest.approx([0.05 * (step + 1) for step in range(10)])
    assert found[0] > 0, "the first update moves too"
    assert max(found) == pytest.approx(0.5)
    assert found[9:] == sorted(found[9:], reverse=True), "after the peak it never rises"


@pytest.mark.parametrize("schedule", RATES)
@calm
@given(step=st.integers(0, 10**7), progress=st.floats(0, 1), warmup=st.integers(1, 5000))
def test_a_rate_is_a_pure_function(schedule, step, progress, warmup):
    config = TrainConfig(learning_rate=0.1, schedule=schedule, warmup=warmup, final_scale=0.1)
    rate = learning_rate(config, step, progress)
    assert 0 <= rate <= 0.1 * (1 + 1e-12)
    assert learning_rate(config, step, progress) == rate


def test_constant_stays():
    assert set(rates(TrainConfig(learning_rate=0.3))) == {0.3}


def test_inverse_sqrt_halves_in_four_times_the_updates():
    config = TrainConfig(learning_rate=0.3, schedule="inverse-sqrt", warmup=100)
    assert learning_rate(config, 99, 0.1) == pytest.approx(0.3)
    assert learning_rate(config, 100, 0.1) == pytest.approx(0.3, rel=0.01), "no jump where the warm-up ends"
    assert learning_rate(config, 399, 0.9) == pytest.approx(0.15)


@pytest.mark.parametrize("final", [0.0, 0.2, 1.0])
def test_cosine_reaches_its_end(final):
    config = TrainConfig(learning_rate=0.3, schedule="cosine", final_scale=final)
    assert learning_rate(config, 0, 0.0) == pytest.approx(0.3)
    assert learning_rate(config, 5, 0.5) == pytest.approx(0.3 * (1 + final) / 2)
    assert learning_rate(config, 10, 1.0) == pytest.approx(0.3 * final)


def test_plateau_scales_what_is_not_warm_up():
    config = TrainConfig(learning_rate=0.3, schedule="plateau", warmup=2)
    assert learning_rate(config, 5, 0.5, plateau_scale=0.25) == pytest.approx(0.075)
    assert learning_rate(config, 1, 0.0, plateau_scale=0.25) == pytest.approx(0.3)
    constant = TrainConfig(learning_rate=0.3)
    assert learning_rate(constant, 5, 0.5, plateau_scale=0.25) == 0.3, "only plateau listens to it"


@pytest.mark.parametrize("schedule", DECAYS)
@pytest.mark.parametrize(("first", "last"), [(1.0, 0.0), (0.9, 0.25), (0.5, 0.5)])
@pytest.mark.parametrize("decay", [0, 400])
def test_forcing_falls_from_ratio_to_final_ratio(schedule, first, last, decay):
    config = TeacherForcingConfig(ratio=first, final_ratio=last, schedule=schedule, decay_updates=decay)
    found = [forcing_ratio(config, step, step / 1000) for step in range(1001)]
    end = decay or 1000
    assert found[0] == pytest.approx(first)
    assert found[end] == pytest.approx(last)
    assert found[end:] == pytest.approx([last] * (1001 - end)), "and it stays there"
    assert all(one >= other - 1e-12 for one, other in itertools.pairwise(found))
    assert all(0 <= one <= 1 for one in found)


def test_the_shapes_of_the_decays():
    def at(schedule, x):
        return forcing_ratio(TeacherForcingConfig(schedule=schedule), 0, x)

    assert [at("linear", x) for x in (0.25, 0.5, 0.75)] == pytest.approx([0.75, 0.5, 0.25])
    assert at("inverse-sigmoid", 0.5) == pytest.approx(0.5)
    assert at("inverse-sigmoid", 0.2) > 0.9, "stays high"
    assert at("inverse-sigmoid", 0.8) < 0.1
    assert at("exponential", 0.2) < 0.4, "falls at once"


@calm
@given(ratio=st.floats(0, 1), step=st.integers(0, 10**6), progress=st.floats(0, 1))
def test_a_constant_ratio_stays(ratio, step, progress):
    assert forcing_ratio(TeacherForcingConfig(ratio=ratio, final_ratio=0.3), step, progress) == ratio
