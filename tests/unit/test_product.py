"""Products by another library, and the store of a search: equal to what they stand for."""

import pytest
import torch
from torch.nn import functional

from itda.nn import product, recurrent
from itda.nn.fused.loops import bahdanau_loop, feeding_loop
from itda.nn.fused.loss import linear_cross_entropy
from itda.nn.fused.paired_loss import paired_cross_entropy
from itda.nn.fused.recurrence import recurrence
from itda.nn.fused.steps import OneDNNStepProducts, StepProducts, step_products
from itda.nn.fused.token_loss import linear_token_nll
from itda.nn.product import Linear, linear, linear_plus, linear_relu, weight_gradient
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


def by_either(monkeypatch, run):
    """What `run` gives by oneDNN, in single precision; by torch in single precision; and by torch in double."""
    monkeypatch.setattr(product, "WORTHWHILE", 1)
    for held_back, dtype in ((True, torch.float32), (False, torch.float32), (False, torch.float64)):
        monkeypatch.setattr(product, "held_back", lambda held=held_back: held and torch.backends.mkldnn.is_available())
        torch.manual_seed(2)
        yield run(dtype)


def leaves_of(dtype, *shapes):
    """Random tensors that want gradients: the same in each precision."""
    return [(torch.randn(shape, dtype=torch.float64) / 4).to(dtype).requires_grad_() for shape in shapes]


def grads_of(outputs, leaves):
    """The outputs, and the gradients of a random functional of them."""
    value = sum((torch.randn(part.shape, dtype=torch.float64).to(part.dtype) * part).sum() for part in outputs)
    return [*(part.detach() for part in outputs), *torch.autograd.grad(value, leaves)]


def agree(found):
    """Single precision by either library is as near to the exact answer as single precision gets."""
    quick, slow, exact = found
    for got in (quick, slow):
        for one, other in zip(got, exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=2e-5)


ROWS, STEPS, SOURCE, DIM = 70, 3, 5, 64  # a state of more numbers than `MANY`


@pytest.mark.parametrize("gates", [4, 3], ids=["lstm", "gru"])
def test_a_recurrence_is_the_same_by_either_library(gates, monkeypatch):
    def run(dtype):
        shapes = ((STEPS, ROWS, 24), (gates * DIM, 24), (gates * DIM,), (gates * DIM, DIM), (gates * DIM,))
        values, *maps, hidden, cell = leaves = leaves_of(dtype, *shapes, (ROWS, DIM), (ROWS, DIM))
        first, leaves = ((hidden, cell), leaves) if gates == 4 else ((hidden,), leaves[:-1])
        states, last = recurrence(values, first, tuple(maps), torch.arange(ROWS) % STEPS + 1)
        return grads_of((states, *last), leaves)

    agree(list(by_either(monkeypatch, run)))


@pytest.mark.parametrize("additive", [True, False], ids=["additive", "product"])
@pytest.mark.parametrize("gates", [4, 3], ids=["lstm", "gru"])
@pytest.mark.parametrize("feeding", [True, False], ids=["feeding", "bahdanau"])
def test_a_loop_is_the_same_by_either_library(feeding, gates, additive, monkeypatch):
    def run(dtype):
        inputs, weight, bias, hidden, cell, keys = leaves_of(
            dtype, (STEPS, ROWS, gates * DIM), (gates * DIM, DIM), (gates * DIM,), (ROWS, DIM), (ROWS, DIM),
            (ROWS, SOURCE, DIM),
        )  # fmt: skip
        terms = leaves_of(dtype, (DIM, DIM), (DIM,)) if additive else [None, None]
        mask = torch.arange(SOURCE) < (torch.arange(ROWS) % SOURCE + 1)[:, None]
        first = (hidden, cell) if gates == 4 else (hidden,)
        biased = [] if gates == 4 else [bias]  # an LSTM's is in its inputs
        leaves = [inputs, weight, *biased, *first, keys, *(term for term in terms if additive)]
        if not feeding:
            (values,) = leaves_of(dtype, (ROWS, SOURCE, gates * DIM))
            outputs = bahdanau_loop(inputs, first, (weight, bias), keys, values, mask, tuple(terms))
            return grads_of(outputs, [*leaves, values])
        values, *maps = leaves_of(dtype, (ROWS, SOURCE, 40), (gates * DIM, 40), (40, DIM))
        drop = (torch.rand(STEPS, ROWS, 40) < 0.8).to(dtype)
        outputs = feeding_loop(inputs, first, (weight, bias), keys, values, mask, tuple(terms), *maps, drop)
        return grads_of(outputs, [*leaves, values, *maps])

    agree(list(by_either(monkeypatch, run)))


@pytest.mark.parametrize("rows", [1110, 512, 40])
def test_the_other_losses_are_the_same_by_either_library(rows, monkeypatch):
    """With whole chunks, a part of one, and a rest."""

    def run(dtype):
        first, second, weight, bias = leaves = leaves_of(dtype, (rows, 24), (rows, 24), (90, 24), (90,))
        ids = torch.randint(0, 90, (rows,))
        _, objective, apart = paired_cross_entropy(first, second, weight, bias, ids, 0.1, 2.0)
        return [apart / rows, *grads_of((linear_token_nll(first, weight, bias, ids), objective / rows), leaves)]

    agree(list(by_either(monkeypatch, run)))


def test_who_multiplies_a_step(monkeypatch):
    """oneDNN where MKL holds itself back and the step is large; torch for small steps and in double precision."""
    monkeypatch.setattr(product, "held_back", lambda: True)
    weight = torch.randn(256, 64)
    assert type(step_products(weight, 64)) is OneDNNStepProducts
    assert type(step_products(weight, 8)) is StepProducts
    assert type(step_products(weight.double(), 64)) is StepProducts
    monkeypatch.setattr(product, "held_back", lambda: False)
    assert type(step_products(weight, 64)) is StepProducts


@pytest.mark.parametrize(("held_back", "rows"), [(True, 64), (True, 8), (False, 64)])
def test_who_trains_an_lstm(held_back, rows, monkeypatch):
    """Our own loop where its products are the quicker ones, else torch's kernel."""
    monkeypatch.setattr(product, "held_back", lambda: held_back and torch.backends.mkldnn.is_available())
    started, cell = [], recurrent.LSTMCell(16, 64)
    ours = recurrent.fused_sequence
    monkeypatch.setattr(recurrent, "fused_sequence", lambda *given: started.append(1) or ours(*given))
    values = torch.randn(rows, 3, 16)
    found, _ = cell.sequence(values, recurrent.first_state(cell, values), None)
    assert bool(started) is (held_back and rows == 64)
    torch.testing.assert_close(found, cell.kernel(values)[0], rtol=1e-4, atol=1e-5)


def test_the_gradient_of_a_weight_is_summed_over_all_rows(monkeypatch):
    """More rows than are laid out at a time, and a rest."""
    monkeypatch.setattr(product, "held_back", lambda: torch.backends.mkldnn.is_available())
    grad, values = torch.randn(1200, 40), torch.randn(1200, 30)
    exact = grad.double().t() @ values.double()
    torch.testing.assert_close(weight_gradient(grad, values).double(), exact, rtol=1e-4, atol=1e-4)


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
