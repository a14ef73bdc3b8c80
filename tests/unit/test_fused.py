"""The chunked loss is its slow twin: cross_entropy(linear(x)), values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import cross_entropy, linear

from itda.nn.fused import chunk as fused
from itda.nn.fused.loss import linear_cross_entropy


def draw(rows, dim=5, vocab=9, seed=0, dtype=torch.float64, never=()):
    torch.manual_seed(seed)
    features, weight, bias = (torch.randn(*shape, dtype=dtype) for shape in ((rows, dim), (vocab, dim), (vocab,)))
    bias[list(never)] = -math.inf
    allowed = torch.tensor([number for number in range(vocab) if number not in never])
    target = allowed[torch.randint(len(allowed), (rows,))]
    return [tensor.requires_grad_() for tensor in (features, weight, bias)], target


def slow(features, weight, bias, target, smoothing):
    """The same by torch: the nll, and the objective over the entries that can be chosen at all."""
    allowed = torch.isfinite(bias)
    renumbered = (allowed.cumsum(0) - 1)[target]
    logits = linear(features, weight[allowed], bias[allowed])
    nll = cross_entropy(logits, renumbered, reduction="sum")
    return nll, cross_entropy(logits, renumbered, reduction="sum", label_smoothing=smoothing)


def same(leaves, target, smoothing, atol):
    nll, objective = linear_cross_entropy(*leaves, target, smoothing)
    expected_nll, expected = slow(*leaves, target, smoothing)
    torch.testing.assert_close(nll, expected_nll.detach(), rtol=0, atol=atol)
    torch.testing.assert_close(objective, expected, rtol=0, atol=atol)
    mine = torch.autograd.grad(3.7 * objective, leaves)
    for one, other in zip(mine, torch.autograd.grad(3.7 * expected, leaves), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=atol)


@settings(deadline=None, max_examples=40, derandomize=True)
@given(
    rows=st.integers(1, 30),
    chunk=st.integers(1, 12),
    smoothing=st.sampled_from([0.0, 0.1, 0.9]),
    never=st.sampled_from([(), (0, 2), (0, 1, 2, 3, 4, 5, 6)]),
    seed=st.integers(0, 2**20),
)
def test_it_is_torchs_cross_entropy(rows, chunk, smoothing, never, seed):
    """One row, more rows than a chunk and exactly as many; with entries that can never be chosen."""
    before, fused.CHUNK = fused.CHUNK, chunk
    try:
        leaves, target = draw(rows, seed=seed, never=never)
        same(leaves, target, smoothing, 1e-10)
    finally:
        fused.CHUNK = before


@pytest.mark.parametrize("rows", [fused.CHUNK - 1, fused.CHUNK, fused.CHUNK + 1])
def test_it_is_so_at_the_real_border_in_single_precision(rows):
    leaves, target = draw(rows, dtype=torch.float32, never=(0, 2))
    same(leaves, target, 0.1, 5e-3)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_finite_differences_agree(smoothing):
    leaves, target = draw(4)
    assert torch.autograd.gradcheck(
        lambda *inputs: linear_cross_entropy(*inputs, target, smoothing)[1], leaves, raise_exception=True
    )


def test_no_row_costs_nothing():
    leaves, target = draw(0)
    nll, objective = linear_cross_entropy(*leaves, target, 0.1)
    assert (nll.item(), objective.item()) == (0.0, 0.0)
    assert not any(gradient.any() for gradient in torch.autograd.grad(objective, leaves))


def test_huge_logits_stay_finite():
    leaves, target = draw(6)
    with torch.no_grad():
        leaves[0].mul_(1e4)
    same(leaves, target, 0.1, 1e-9)


def test_only_the_objective_carries_a_gradient():
    leaves, target = draw(3)
    nll, objective = linear_cross_entropy(*leaves, target, 0.1)
    assert objective.requires_grad
    assert not nll.requires_grad


def test_nothing_is_kept_where_no_gradient_is_wanted():
    leaves, target = draw(3)
    with torch.no_grad():
        nll, _ = linear_cross_entropy(*leaves, target)
    torch.testing.assert_close(nll, slow(*leaves, target, 0.0)[0].detach())
    with torch.inference_mode():
        torch.testing.assert_close(linear_cross_entropy(*leaves, target)[0], nll)


def test_a_part_may_be_frozen():
    (features, weight, bias), target = draw(3)
    frozen = weight.detach()
    _, objective = linear_cross_entropy(features, frozen, bias, target)
    objective.backward()
    expected = torch.autograd.grad(slow(features, frozen, bias, target, 0.0)[1], [features, bias])
    torch.testing.assert_close(features.grad, expected[0])
    torch.testing.assert_close(bias.grad, expected[1])


def test_autocast_leaves_the_loss_in_single_precision():
    leaves, target = draw(5, dtype=torch.float32)
    expected = linear_cross_entropy(*leaves, target)[0]
    with torch.autocast("cpu", torch.bfloat16):
        inside = linear_cross_entropy(*leaves, target)[0]
    assert inside.dtype == torch.float32
    torch.testing.assert_close(inside, expected)
