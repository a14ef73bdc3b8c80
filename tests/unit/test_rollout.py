"""Scheduled sampling: what the decoder is fed, where the coin says so."""

from dataclasses import replace

import pytest
import torch
from zoo import FEW, batch_of, fresh, model_of, padded, stepped

from itda.batch import Tokens, Vectors
from itda.config import TeacherForcingConfig, TrainConfig
from itda.training.objective import likelihood, make_objective
from itda.training.rollout import exact_rollout, parallel_rollout, toss

few = pytest.mark.parametrize("kind", FEW.values(), ids=FEW)
vectors = pytest.mark.parametrize("kind", [k for k in FEW.values() if k.data == "vectors"], ids=lambda k: k.name)
forms = pytest.mark.parametrize("rollout", [exact_rollout, parallel_rollout])


def coins(seed=0):
    return torch.Generator().manual_seed(seed)


def close(left, right):
    torch.testing.assert_close(left, right, rtol=0, atol=1e-11)


def fixed(*rows):
    """A coin that was tossed already: True where the reference is shown."""
    shown = torch.tensor(rows)
    return lambda shape, ratio, granularity, coins: shown.expand(shape)


# --- coins -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["token", "sequence", "step"])
@pytest.mark.parametrize("ratio", [0.0, 0.3, 0.8, 1.0])
def test_coins_fall_as_often_as_they_should(granularity, ratio):
    shown = toss(torch.Size((200, 200)), ratio, granularity, coins())
    assert shown.shape == (200, 200)
    assert float(shown.float().mean()) == pytest.approx(ratio, abs=0.1)
    if ratio in (0.0, 1.0):
        assert shown.float().unique().tolist() == [ratio]


@pytest.mark.parametrize(("granularity", "distinct"), [("token", (200, 200)), ("sequence", (2, 1)), ("step", (1, 2))])
def test_a_coin_for_each_token_sequence_or_step(granularity, distinct):
    shown = toss(torch.Size((200, 200)), 0.5, granularity, coins())
    assert (shown.unique(dim=0).shape[0], shown.unique(dim=1).shape[1]) == distinct


def test_coins_are_those_of_their_generator():
    shape = torch.Size((5, 6))
    assert torch.equal(toss(shape, 0.5, "token", coins(3)), toss(shape, 0.5, "token", coins(3)))
    assert not torch.equal(toss(shape, 0.5, "token", coins(3)), toss(shape, 0.5, "token", coins(4)))
    torch.manual_seed(0)
    before = torch.rand(1)
    torch.manual_seed(0)
    toss(shape, 0.5, "token", coins(3))
    assert torch.equal(before, torch.rand(1)), "dropout's generator is left alone"


# --- what is fed -------------------------------------------------------------------------------------------------


@few
@forms
def test_ratio_1_is_teacher_forcing(kind, rollout):
    """Values and gradients of the likelihood, exact and parallel alike."""
    model, batch = model_of(kind), batch_of(kind)
    expected, got = model.loss(batch), rollout(model, batch, 1.0, "token", coins())
    close(got.nll, expected.nll)
    close(got.objective, expected.objective)
    assert int(got.count) == int(expected.count)
    parameters = list(model.parameters())
    for one, other in zip(
        torch.autograd.grad(got.objective, parameters, allow_unused=True),
        torch.autograd.grad(expected.objective, parameters, allow_unused=True),
        strict=True,
    ):
        close(one, other)


@torch.no_grad()
def free_running(model, batch):
    """What a model that sees no reference is fed, by the loop that everybody writes first."""
    memory = model.encode(batch.src)
    state, previous, fed = model.decoder.start(memory), batch.tgt_in.values[:, 0], []
    for _ in range(batch.tgt_in.mask.shape[1]):
        fed.append(previous)
        decoded, state = model.decoder.step(previous, state)
        previous = model.head.predict(decoded, memory)[:, 0]
    return torch.stack(fed, 1)


def as_side(side, values):
    return Tokens(values, side.mask) if isinstance(side, Tokens) else Vectors(values, side.mask)


@few
def test_ratio_0_is_free_running(kind):
    """The loss of the references, with the model's own outputs as inputs: not one reference is seen."""
    model, batch = model_of(kind), batch_of(kind)
    fed = replace(batch, tgt_in=as_side(batch.tgt_in, free_running(model, batch)))
    got = exact_rollout(model, batch, 0.0, "token", coins())
    close(got.nll, model.loss(fed).nll)
    assert abs(float(got.nll.detach()) - float(model.loss(batch).nll.detach())) > 1e-6
    values = batch.tgt_in.values.clone()
    values[:, 1:] = 7
    other = replace(batch, tgt_in=as_side(batch.tgt_in, values))
    close(exact_rollout(model, other, 0.0, "token", coins()).nll, got.nll)


@few
@forms
def test_extra_padding_changes_no_rollout(kind, rollout, monkeypatch):
    """With the same coins at the same places; garbage under the mask is never fed back into what is real."""
    model, batch = model_of(kind), batch_of(kind)
    rows = [[True, False, True, False, False] + [False] * 3, [True, True, False, True, True] + [True] * 3]
    longer = replace(batch, src=padded(batch.src, 2), tgt_in=padded(batch.tgt_in, 3), tgt_out=padded(batch.tgt_out, 3))
    found = []
    for one in (batch, longer):
        width = one.tgt_in.mask.shape[1]
        shown = [row[:width] for row in (*rows, rows[0])]
        monkeypatch.setattr("itda.training.rollout.toss", fixed(*shown))
        found.append(rollout(model, one, 0.5, "token", coins()))
    close(found[0].nll, found[1].nll)
    close(found[0].objective, found[1].objective)


@few
def test_a_coin_decides_one_input(kind, monkeypatch):
    """Only the input at the position of the coin changes: the reference before it, the own prediction there."""
    model, batch = model_of(kind), batch_of(kind, tgt=(4, 4, 4))
    length = batch.tgt_in.mask.shape[1]
    shown = [True, True, False] + [True] * (length - 3)
    monkeypatch.setattr("itda.training.rollout.toss", fixed(shown))
    with torch.no_grad():
        memory = model.encode(batch.src)
        own = model.head.predict(stepped(model.decoder, batch.tgt_in, memory), memory)
        values = batch.tgt_in.values.clone()
        values[:, 2] = own[:, 1]
        expected = model.loss(replace(batch, tgt_in=as_side(batch.tgt_in, values))).nll
        for rollout in (exact_rollout, parallel_rollout):  # one replacement alone: both forms are exact
            close(rollout(model, batch, 0.5, "step", coins()).nll, expected)


@vectors
def test_a_vector_that_is_fed_back_carries_gradient(kind):
    """As in the lecture's program: the gradient differs from that with the fed vectors held fixed."""
    model, batch = model_of(kind), batch_of(kind)
    parameters = list(model.head.parameters())
    through = torch.autograd.grad(exact_rollout(model, batch, 0.0, "token", coins()).objective, parameters)
    fed = replace(batch, tgt_in=as_side(batch.tgt_in, free_running(model, batch)))
    held = torch.autograd.grad(model.loss(fed).objective, parameters)
    assert not any(torch.allclose(one, other) for one, other in zip(through, held, strict=True))


@vectors
def test_that_gradient_is_the_derivative(kind):
    model, batch = fresh(kind).eval(), batch_of(kind)
    bias = model.head.output.bias

    def loss():
        return exact_rollout(model, batch, 0.0, "token", coins()).objective

    (gradient,) = torch.autograd.grad(loss(), [bias])
    with torch.no_grad():
        for place in range(len(bias)):
            bias[place] += 1e-5
            above = loss()
            bias[place] -= 2e-5
            below = loss()
            bias[place] += 1e-5
            assert float((above - below) / 2e-5) == pytest.approx(float(gradient[place]), rel=1e-4, abs=1e-6)


# --- the objective of a recipe -----------------------------------------------------------------------------------


def test_a_recipe_with_full_teacher_forcing_pays_for_no_coin():
    assert make_objective(TrainConfig()) is likelihood


@pytest.mark.parametrize(("form", "rollout"), [("exact", exact_rollout), ("parallel", parallel_rollout)])
def test_a_recipe_names_form_ratio_and_granularity(form, rollout):
    kind = next(iter(FEW.values()))
    model, batch = model_of(kind), batch_of(kind)
    forcing = TeacherForcingConfig(ratio=1.0, schedule="linear", granularity="sequence", form=form)
    objective = make_objective(TrainConfig(teacher_forcing=forcing))
    got = objective(model, batch, 9, 0.25, coins(2))
    close(got.nll, rollout(model, batch, 0.75, "sequence", coins(2)).nll)


@pytest.mark.parametrize("granularity", ["token", "sequence", "step"])
def test_both_forms_toss_the_same_coins(granularity, monkeypatch):
    """The two forms of one update differ in how predictions are made, not in where they are fed."""
    kind = next(iter(FEW.values()))
    model, batch, tossed = model_of(kind), batch_of(kind), []

    def record(*arguments):
        tossed.append(toss(*arguments))
        return tossed[-1]

    monkeypatch.setattr("itda.training.rollout.toss", record)
    for rollout in (exact_rollout, parallel_rollout):
        rollout(model, batch, 0.5, granularity, coins(5))
    assert torch.equal(*tossed)
