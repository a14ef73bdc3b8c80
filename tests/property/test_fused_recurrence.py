"""A recurrent layer as one function, fed its own predictions or not, is its steps: values, and every gradient."""

import gc
import weakref
from dataclasses import replace

import pytest
import torch
from torch import nn
from zoo import ZOO, batch_of, close, drawn, fresh, model_of, on_sides, padded, randomize

from itda.nn.embedding import SequenceDropout
from itda.nn.fused import cells, shelf
from itda.nn.fused.recurrence import recurrence
from itda.nn.fused.rollout import rollout_error
from itda.nn.fused.squared_error import linear_squared_error
from itda.nn.recurrent import GRUCell, LSTMCell, first_state
from itda.training.rollout import exact_rollout, stepwise

PLAIN = {name: kind for name, kind in ZOO.items() if kind.decoder == "plain" and kind.encoder == "recurrent"}
QUICK = {name: kind for name, kind in PLAIN.items() if kind.data == "vectors" and kind.layers == 1}
quick = pytest.mark.parametrize("kind", QUICK.values(), ids=QUICK)
CELLS = {"lstm": LSTMCell, "gru": GRUCell}
both = pytest.mark.parametrize("cell", ["lstm", "gru"])


def refuse(*_arguments):
    """Stand in for the path that must not be taken."""
    raise AssertionError("the other path was taken")


def rolled(model, batch, ratio, granularity):
    """The sums of an exact rollout, and the gradients of all weights."""
    model.zero_grad()
    sums = exact_rollout(model, batch, ratio, granularity, torch.Generator().manual_seed(3))
    sums.objective.backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"nll": sums.nll.detach(), "count": sums.count, **named}


# --- the rollout -------------------------------------------------------------------------------------------------


@quick
@pytest.mark.parametrize("granularity", ["token", "sequence", "step"])
@pytest.mark.parametrize("ratio", [0.0, 0.5, 1.0])
def test_a_rollout_in_one_function_is_the_step_by_step_one(kind, granularity, ratio, monkeypatch):
    """With rows of several lengths, and garbage under the padding."""
    model, batch = fresh(kind).eval(), batch_of(kind, tgt=(3, 6, 5))
    batch = on_sides(batch, lambda side: padded(side, 2))
    with monkeypatch.context() as patch:
        patch.setattr("itda.training.rollout.stepwise", refuse)
        got = rolled(model, batch, ratio, granularity)
    monkeypatch.setattr(type(model.decoder), "rollout_error", lambda *_arguments: None)
    expected = rolled(model, batch, ratio, granularity)
    assert got.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(got[name], value, rtol=1e-9, atol=1e-11, msg=lambda told, name=name: name + told)


@quick
def test_the_first_input_is_never_replaced(kind):
    """Whatever the coin of position 0 says."""
    model, batch = model_of(kind), batch_of(kind)
    memory, shown = model.encode(batch.src), torch.zeros(batch.tgt_in.mask.shape, dtype=torch.bool)
    close(
        model.head.rollout_loss(model.decoder, batch, memory, shown).nll,
        model.head.loss(stepwise(model, batch.tgt_in, memory, shown), batch.tgt_out, memory).nll,
    )


def offered(model, batch):
    """Whether the quick way is there."""
    shown = torch.ones(batch.tgt_in.mask.shape, dtype=torch.bool)
    return model.head.rollout_loss(model.decoder, batch, model.encode(batch.src), shown) is not None


def test_who_offers_a_rollout():
    """Decoders of vectors with one layer that drop nothing; all others go step by step."""
    assert {name for name, kind in ZOO.items() if offered(model_of(kind), batch_of(kind))} == set(QUICK)


@quick
def test_a_decoder_that_drops_goes_step_by_step(kind):
    model, batch = fresh(kind), batch_of(kind)
    for module in model.modules():
        if isinstance(module, SequenceDropout):
            module.rate = 0.4
    assert not offered(model, batch)
    assert offered(model.eval(), batch)


COINS = torch.tensor([[True, True], [False, True], [False, False], [True, True]])


def rolling(cell, output, values, first, mask):
    """The error of a rollout as a function of all that has a gradient, and what that is."""
    target = drawn(*values.shape)

    def run(values, weight, bias, *rest):
        return rollout_error(values, COINS, rest[4:], rest[:4], (weight, bias), target, mask)

    return run, (values, output.weight, output.bias, *cell.kernel_maps(), *first)


@both
@pytest.mark.parametrize("padded", [False, True], ids=["whole", "padded"])
@pytest.mark.parametrize("zeros", [False, True], ids=["given", "zeros"])
def test_a_rollout_passes_gradcheck(cell, padded, zeros):
    """Against finite differences; with coins that differ from row to row, from a given state and from zeros."""
    cell, output, values, first = layer(cell)
    mask = torch.arange(4)[:, None] < torch.tensor([2, 4]) if padded else None
    run, given = rolling(cell, output, values, () if zeros else first, mask)
    assert torch.autograd.gradcheck(run, given)


@both
def test_two_graphs_at_a_time_share_nothing(cell, monkeypatch):
    """What one pass keeps is not written over by the next as long as its graph lives; then it is used again."""
    monkeypatch.setattr(shelf, "_idle", {})
    run, given = rolling(*layer(cell), None)
    expected = torch.autograd.grad(run(*given), given)
    assert shelf.idle() == 1
    one, other = run(*given), run(*(2 * part for part in given))
    states = recurrence(given[0], given[7:], given[3:7])[0]
    kept = states.detach().clone()
    recurrence(2 * given[0], given[7:], given[3:7])
    for _ in range(2):  # the way back may be gone twice
        for found, wanted in zip(torch.autograd.grad(one, given, retain_graph=True), expected, strict=True):
            assert torch.equal(found, wanted)
    assert torch.equal(states, kept)
    assert shelf.idle() == 1
    del one, other, states
    assert shelf.idle() == 4


@both
@pytest.mark.parametrize("grad", [True, False])
def test_what_is_given_out_outlives_its_graph(cell, grad):
    """The next pass writes over what the shelf has, not over what somebody kept of the one before."""
    _, (values, _, _, *maps) = rolling(*layer(cell), None)
    with torch.set_grad_enabled(grad):
        states, last = recurrence(values, (), tuple(maps[:4]))
        kept = [part.detach() for part in (states, *last)]
        copies = [part.clone() for part in kept]
        del states, last
        recurrence(2 * values, (), tuple(maps[:4]))
    assert all(torch.equal(one, other) for one, other in zip(kept, copies, strict=True))


def test_what_waits_on_the_shelf_holds_no_weights():
    run, given = rolling(*layer("lstm"), None)
    weight = weakref.ref(given[5])
    run(*given).backward()
    del run, given
    gc.collect()
    assert weight() is None


def test_the_shelf_is_small(monkeypatch):
    """Few shapes, few of each, and nothing large."""
    monkeypatch.setattr(shelf, "_idle", {})
    cell = randomize(CELLS["gru"](2, 3))
    for rows in range(1, 2 * shelf.SHAPES):
        recurrence(drawn(3, rows, 2), (), cell.kernel_maps())
        assert shelf.idle() <= shelf.SHAPES
    monkeypatch.setattr(shelf, "_idle", {})
    values = drawn(3, 1, 2, grad=True)
    graphs = [recurrence(values, (), cell.kernel_maps()) for _ in range(2 * shelf.EACH)]
    del graphs
    assert shelf.idle() == shelf.EACH
    before = shelf.idle()
    recurrence(drawn(shelf.SMALL // 9 + 1, 1, 2), (), cell.kernel_maps())
    assert shelf.idle() == before


# --- the layer ---------------------------------------------------------------------------------------------------


def layer(kind, dim=3, said=2):
    """A cell that reads what it says: (cell, weight and bias of its output, values, first state)."""
    torch.manual_seed(5)
    cell, output = randomize(CELLS[kind](said, dim)), randomize(nn.Linear(dim, said))
    return cell, output, drawn(4, 2, said, grad=True), tuple(drawn(2, dim, grad=True) for _ in range(cell.parts))


@both
@pytest.mark.parametrize("ends", [None, [2, 4]], ids=["whole", "padded"])
@pytest.mark.parametrize("zeros", [False, True], ids=["given", "zeros"])
def test_it_passes_gradcheck(cell, ends, zeros):
    """Against finite differences, of all states and of the last ones; from a given state and from zeros."""
    cell, _, values, first = layer(cell)
    ends = None if ends is None else torch.tensor(ends)

    def run(values, *rest):
        states, last = recurrence(values, rest[4:], rest[:4], ends)
        return states, *last

    assert torch.autograd.gradcheck(run, (values, *cell.kernel_maps(), *(() if zeros else first)))


@both
@pytest.mark.parametrize("lengths", [None, (5, 2, 4)], ids=["whole", "padded"])
def test_it_is_the_kernel_of_torch(cell, lengths):
    """All states on real positions, the last state, and their gradients; a GRU in training takes this path itself."""
    torch.manual_seed(2)
    cell, values = randomize(CELLS[cell](4, 3)), drawn(3, 5, 4, grad=True)
    mask = None if lengths is None else torch.arange(5) < torch.tensor(lengths)[:, None]
    ends = None if mask is None else mask.sum(1)
    weights = [values, *cell.parameters()]

    def reduced(states, last):
        real = states if mask is None else states[mask]
        total = sum((part * torch.arange(1.0, part.numel() + 1).view_as(part)).sum() for part in (real, *last))
        return total, *torch.autograd.grad(total, weights)

    packed = values if ends is None else nn.utils.rnn.pack_padded_sequence(values, ends, True, False)
    found, last = cell.kernel(packed)
    found = found if ends is None else nn.utils.rnn.pad_packed_sequence(found, True)[0]
    expected = reduced(found, [part[0] for part in (last if isinstance(last, tuple) else (last,))])
    states, last = recurrence(values.transpose(0, 1), first_state(cell, values), cell.kernel_maps(), ends)
    for got in (
        reduced(states.transpose(0, 1), last),
        reduced(*cell.sequence(values, first_state(cell, values), mask)),
    ):
        for one, other in zip(got, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


@both
def test_blocks_change_nothing(cell, monkeypatch):
    """Factors prepared for one step at a time, for two, or for all at once."""
    cell, _, values, first = layer(cell)
    found = []
    for block in (1, 2 * first[0].numel(), 1 << 20):
        monkeypatch.setattr(cells, "BLOCK", block)
        states, last = recurrence(values, first, cell.kernel_maps())
        found.append(torch.autograd.grad(states.square().sum() + last[-1].sum(), [values, *cell.parameters(), *first]))
    for others in found[1:]:
        for one, other in zip(found[0], others, strict=True):
            close(one, other)


def test_it_runs_in_the_precision_of_its_weights():
    """Under autocast, which gives the loop values of another one."""
    cell, _, values, first = layer("lstm")
    cell.float()
    with torch.autocast("cpu", torch.bfloat16):
        states, _ = recurrence(values.bfloat16(), tuple(part.float() for part in first), cell.kernel_maps())
    assert states.dtype == torch.float32
    states.sum().backward()
    assert values.grad.dtype == torch.float64


# --- the error ---------------------------------------------------------------------------------------------------


def test_squared_error_in_one_node_is_the_plain_one():
    features, target = drawn(2, 3, 5, grad=True), drawn(2, 3, 4)
    weight, bias = drawn(4, 5, grad=True), drawn(4, grad=True)
    mask = torch.tensor([[True, True, False], [True, False, False]])
    target[0, 2] = float("nan")

    def plain(features, weight, bias):
        return (nn.functional.linear(features, weight, bias) - target)[mask].square().mean(-1).sum()

    parts = (features, weight, bias)
    got, expected = linear_squared_error(*parts, target, mask), plain(*parts)
    close(got, expected)
    for one, other in zip(torch.autograd.grad(3 * got, parts), torch.autograd.grad(3 * expected, parts), strict=True):
        close(one, other)
    assert torch.autograd.gradcheck(lambda *parts: linear_squared_error(*parts, target.nan_to_num(), mask), parts)


@quick
def test_a_loss_reads_no_garbage(kind):
    """Under the mask of the target, as large as it may be."""
    model, batch = model_of(kind), batch_of(kind)
    decoded, memory = model(batch), model.encode(batch.src)
    values = batch.tgt_out.values.masked_fill(~batch.tgt_out.mask[..., None], float("inf"))
    close(
        model.head.loss(decoded, replace(batch.tgt_out, values=values), memory).nll,
        model.head.loss(decoded, batch.tgt_out, memory).nll,
    )
