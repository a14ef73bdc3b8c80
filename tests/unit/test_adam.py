"""Our Adam is torch's: weights and state bit for bit, whatever comes between the steps."""

import pytest
import torch
from torch import nn

from itda.training import adam

KINDS = {"Adam": {}, "AdamW": {"weight_decay": 0.1}}
both = pytest.mark.parametrize("name", KINDS)


def pair(name, **settings):
    """A model and its optimizer, torch's and ours."""
    found = []
    for home in (torch.optim, adam):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(5, 7), nn.Linear(7, 2))
        groups = [{"params": list(model[0].parameters())}, {"params": list(model[1].parameters()), "lr": 0.05}]
        found.append((model, getattr(home, name)(groups, lr=0.01, fused=True, **KINDS[name], **settings)))
    return found


def advance(model, optimizer, steps, first=0, frozen=()):
    for number in range(first, first + steps):
        optimizer.zero_grad()
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(number))
        model(x).square().sum().backward()
        for parameter in frozen:
            parameter.grad = None
        optimizer.param_groups[0]["lr"] = 0.01 / (1 + number)
        optimizer.step()


def same(one, other):
    (left, first), (right, second) = one, other
    for mine, theirs in zip(left.parameters(), right.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    states = [optimizer.state_dict()["state"] for optimizer in (first, second)]
    assert states[0].keys() == states[1].keys()
    for key, state in states[0].items():
        assert state.keys() == states[1][key].keys()
        assert all(torch.equal(state[name], states[1][key][name]) for name in state)


@both
def test_steps_are_torchs(name, monkeypatch):
    slow, quick = pair(name)
    advance(*slow, 6)
    advance(*quick, 1)
    monkeypatch.setattr(getattr(torch.optim, name), "step", None)
    advance(*quick, 5, 1)
    same(slow, quick)


@both
def test_a_parameter_without_gradient_stands_still(name):
    """And its count of steps falls behind the others'."""
    slow, quick = pair(name)
    for model, optimizer in (slow, quick):
        bias = model[0].bias
        advance(model, optimizer, 2, 0, [bias])
        before = bias.detach().clone()
        advance(model, optimizer, 2, 2)
        assert not torch.equal(before, bias)
        advance(model, optimizer, 1, 4, [bias])
        advance(model, optimizer, 2, 5)
    same(slow, quick)


@both
def test_a_state_that_was_loaded_is_the_one_that_goes_on(name):
    slow, quick = pair(name)
    advance(*slow, 3)
    advance(*quick, 3)
    _, fresh = pair(name)
    advance(*fresh, 2, 50)
    fresh[0].load_state_dict(quick[0].state_dict())
    fresh[1].load_state_dict(quick[1].state_dict())
    advance(*slow, 3, 3)
    advance(*fresh, 3, 3)
    same(slow, fresh)


@both
def test_a_group_that_came_later_is_moved_too(name):
    slow, quick = pair(name)
    for model, optimizer in (slow, quick):
        advance(model, optimizer, 2)
        model.append(nn.Linear(2, 2))
        torch.nn.init.constant_(model[2].weight, 0.5)
        torch.nn.init.constant_(model[2].bias, 0.5)
        optimizer.add_param_group({"params": list(model[2].parameters())})
        advance(model, optimizer, 3, 2)
    same(slow, quick)


@both
@pytest.mark.parametrize("settings", [{"amsgrad": True}, {"maximize": True}, {"fused": False}], ids=str)
def test_what_the_kernel_is_not_told_is_left_to_torch(name, settings):
    slow, quick = ([*one] for one in pair(name))
    for one in (slow, quick):
        one[1] = type(one[1])(one[0].parameters(), **{"lr": 0.01, "fused": True, **settings})
        advance(*one, 4)
    same(slow, quick)


@both
def test_a_closure_and_gradients_of_zero_are_torchs(name):
    for model, optimizer in pair(name):
        advance(model, optimizer, 2)
        assert optimizer.step(lambda: 5.0) == 5.0
        optimizer.zero_grad(set_to_none=False)
        assert all(not parameter.grad.any() for parameter in model.parameters())
