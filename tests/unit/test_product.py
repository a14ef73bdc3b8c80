"""Products by another library, and the store of a search: equal to what they stand for."""

import pytest
import torch
from torch.nn import functional

from itda.nn import product
from itda.nn.fused.loss import linear_cross_entropy
from itda.nn.product import Linear, linear, linear_plus, linear_relu
from itda.nn.walks.slots import FIRST, Slots

CASES = {
    "matrix": lambda: torch.randn(700, 96),
    "batch": lambda: torch.randn(70, 10, 96),
    "turned": lambda: torch.randn(10, 70, 96).transpose(0, 1),
    "part": lambda: torch.randn(700, 200)[:, 4:100],
    "one position": lambda: torch.randn(700, 3, 96)[:, 1:2],
    "few": lambda: torch.randn(2, 96),
    "none": lambda: torch.randn(0, 96),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("part_of_weight", [False, True])
def test_a_product_is_torchs(case, part_of_weight, monkeypatch):
    torch.manual_seed(1)
    values, weight, bias = CASES[case](), torch.randn(80, 96), torch.randn(80)
    if part_of_weight:
        weight = torch.randn(80, 120)[:, :96]
    for held_back in (True, False):
        monkeypatch.setattr(product, "held_back", lambda held=held_back: held and torch.backends.mkldnn.is_available())
        with torch.inference_mode():
            for added in (bias, None):
                expected = functional.linear(values, weight, added)
                torch.testing.assert_close(linear(values, weight, added), expected, rtol=1e-5, atol=1e-4)
    assert product.has_alternative(values, weight) is False  # as patched last


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("gradients", [False, True])
def test_a_product_with_what_follows_it_is_both(case, gradients, monkeypatch):
    torch.manual_seed(1)
    values, weight, bias = CASES[case](), torch.randn(80, 96), torch.randn(80)
    other = torch.randn(*values.shape[:-1], 160)[..., 40:120]
    for held_back in (True, False):
        monkeypatch.setattr(product, "held_back", lambda held=held_back: held and torch.backends.mkldnn.is_available())
        with torch.set_grad_enabled(gradients):
            for added in (bias, None):
                expected = functional.linear(values, weight, added)
                relu = linear_relu(values, weight, added)
                torch.testing.assert_close(relu, expected.clamp(min=0), rtol=1e-5, atol=1e-4)
                plus = linear_plus(values, weight, added, other)
                torch.testing.assert_close(plus, expected + other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("biased", [True, False])
def test_a_product_has_torchs_gradients(case, biased, monkeypatch):
    torch.manual_seed(1)
    given, bias = CASES[case](), torch.randn(80) if biased else None
    drawn = torch.randn(*given.shape[:-1], 80)
    found = []
    for held_back in (True, False):
        monkeypatch.setattr(product, "held_back", lambda held=held_back: held and torch.backends.mkldnn.is_available())
        layer, values = Linear(96, 80, bias=biased), given.clone().requires_grad_()
        torch.nn.init.constant_(layer.weight, 0.1)
        (linear(values, layer.weight, bias) * drawn).sum().backward()
        found.append((values.grad, layer.weight.grad))
    for quick, slow in zip(*found, strict=True):
        torch.testing.assert_close(quick, slow, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_the_loss_is_the_same_by_either_library(smoothing, monkeypatch):
    torch.manual_seed(1)
    ids, found = torch.randint(2, 300, (700,)), []
    never = torch.zeros(300).index_fill_(0, torch.tensor([0, 1]), float("-inf"))
    for held_back in (True, False):
        monkeypatch.setattr(product, "held_back", lambda held=held_back: held and torch.backends.mkldnn.is_available())
        torch.manual_seed(2)
        leaves = [torch.randn(shape).requires_grad_() for shape in ((700, 40), (300, 40), (300,))]
        features, weight, bias = leaves
        nll, objective = linear_cross_entropy(features, weight, bias + never, ids, smoothing)
        objective.backward()
        found.append([nll, *(leaf.grad for leaf in leaves)])
    for quick, slow in zip(*found, strict=True):
        torch.testing.assert_close(quick, slow, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("width", [1, 3, 20])
def test_slots_remember_each_rows_own_past(width):
    """Against lists: what each row descends from, with a store that forgets and grows; it holds little more."""
    draw, sentences = torch.Generator().manual_seed(1), 2
    slots, store = Slots(torch.zeros(sentences, 5, 4)), torch.full((sentences, FIRST), -1)

    def keep(order, room):
        nonlocal store
        made = torch.full((sentences, room), -1)
        moved = store if order is None else store.gather(1, order)
        made[:, : moved.shape[1]] = moved
        store = made

    pasts, names = [[[]] for _ in range(sentences)], 0
    for position in range(120):
        if position == 1 and width > 1:
            slots.widen(width, keep)
            pasts = [[list(rows[0]) for _ in range(width)] for rows in pasts]
        new = slots.advance(keep)
        for sentence, rows in enumerate(pasts):
            for row, past in enumerate(rows):
                store[sentence, new.start + row] = names
                past.append(names)
                names += 1
        assert slots.used <= slots.looked_at <= slots.room
        bias = slots.bias.expand(sentences, slots.width, -1)
        for sentence, rows in enumerate(pasts):
            for row, past in enumerate(rows):
                seen = store[sentence, : slots.looked_at][bias[sentence, row] == 0.0]
                assert sorted(seen.tolist()) == sorted(past)
        if position >= 1 and width > 1:
            parents = torch.randint(width, (sentences, width), generator=draw)
            slots.reorder((parents + torch.arange(sentences)[:, None] * width).flatten())
            pasts = [
                [list(rows[parent]) for parent in chosen] for rows, chosen in zip(pasts, parents.tolist(), strict=True)
            ]
    assert slots.position == 120
    assert slots.room <= 4 * (120 + 5 * width), "the store forgets what nobody descends from"
