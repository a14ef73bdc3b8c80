"""Sampling: what is drawn, how often, and that nothing but its key decides it."""

import numpy as np
import pytest
import torch

from itda.decode.sampling import Sampling, coins, draw, sample_keys, truncated
from itda.errors import UserError

LOGITS = torch.tensor([[2.0, 1.0, 0.0, -1.0, -2.0, 1.0]]).log_softmax(1)


def kept(**settings):
    return truncated(LOGITS, Sampling(**settings))[0]


def test_nothing_is_cut_by_default():
    torch.testing.assert_close(kept(), LOGITS[0].exp().double())


def test_temperature_sharpens_and_flattens():
    torch.testing.assert_close(kept(temperature=0.5), (2 * LOGITS[0].double()).softmax(0))
    assert kept(temperature=0.01)[0] > 0.999
    torch.testing.assert_close(kept(temperature=1e6), torch.full((6,), 1 / 6, dtype=torch.double), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"top_k": 1}, [0]),
        ({"top_k": 3}, [0, 1, 5]),
        ({"top_k": 2}, [0, 1, 5]),  # equals at the edge stay together
        ({"top_k": 60}, [0, 1, 2, 3, 4, 5]),
        ({"top_p": 0.01}, [0]),
        ({"top_p": 0.6}, [0, 1]),
        ({"top_p": 0.95}, [0, 1, 2, 5]),
        ({"min_p": 0.3}, [0, 1, 5]),
        ({"min_p": 1.0}, [0]),
        ({"top_k": 3, "top_p": 0.7}, [0, 1]),  # top_p counts what top_k has left
    ],
)
def test_cuts_leave_the_most_probable(settings, left):
    probabilities = kept(**settings)
    assert probabilities.nonzero().flatten().tolist() == left
    assert float(probabilities.sum()) == pytest.approx(1)
    expected = LOGITS[0].exp().double()[left]
    torch.testing.assert_close(probabilities[left], expected / expected.sum())


def test_tokens_are_drawn_as_often_as_they_should():
    probabilities = truncated(LOGITS, Sampling(top_p=0.97))
    keys = sample_keys(7, [(1, 2, 3)], 4000)
    counts = np.zeros(6)
    for position in range(5):
        numbers = torch.as_tensor(coins(keys, position))
        assert (numbers >= 0).all()
        assert (numbers < 1).all()
        tokens, possible = draw(probabilities.expand(4000, -1), numbers)
        assert possible.all()
        counts += np.bincount(tokens.numpy(), minlength=6)
    expected = probabilities[0].numpy()
    error = 4 * np.sqrt(expected * (1 - expected) / 20000) + 1e-9
    assert (abs(counts / 20000 - expected) <= error).all()


def test_impossible_tokens_are_never_drawn():
    probabilities = torch.tensor([[0.0, 0.5, 0.0, 0.5, 0.0], [0.0] * 5], dtype=torch.double)
    for number in (0.0, 0.25, 0.4999, 0.5, 0.75, 1 - 2**-53):
        tokens, possible = draw(probabilities, torch.full((2,), number, dtype=torch.double))
        assert possible.tolist() == [True, False]
        assert tokens[0] == (1 if number < 0.5 else 3)


def test_coins_differ_by_seed_source_sample_and_position():
    keys = np.concatenate([sample_keys(seed, [(1, 2), (12,), (2, 1), ()], 3) for seed in (1, 2)])
    drawn = np.concatenate([coins(keys, position) for position in range(10)])
    assert len(np.unique(drawn)) == len(drawn) == 240
    assert np.array_equal(sample_keys(1, [(1, 2)], 5)[:3], sample_keys(1, [(9,), (1, 2)], 3)[3:])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": 0.0}, "temperature is 0"),
        ({"top_k": -1}, "top_k is -1"),
        ({"top_p": 0.0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_p": 2.0}, "min_p is 2"),
        ({"seed": -3}, "seed is -3"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        Sampling(**settings).check()
