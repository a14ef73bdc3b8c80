"""The fused loop over time is the decoder's own steps: values, and the gradients of everything that has one."""

import gc

import pytest
import torch
from zoo import DEEP, FEW, RECURRENT_DECODERS, ZOO, batch_of, fresh, model_of, stepped

from itda.nn.embedding import SequenceDropout
from itda.nn.fused import loops, shelf
from itda.nn.fused.cells import GRUTrace, LSTMTrace

FUSED = {name: kind for name, kind in ZOO.items() if kind.decoder in ("bahdanau", "feeding") and kind.layers == 1}
TOLD = ("additive", "dot", "general", "concat")  # the scores that the loops know
STEPPED = {kind.name: kind for kind in DEEP if kind.decoder in ("bahdanau", "feeding", "gnmt")} | FUSED
each = pytest.mark.parametrize("kind", STEPPED.values(), ids=STEPPED)


def gradients(model, batch, decode):
    """A random functional of features, alpha and contexts at real target positions, and its gradients."""
    model.zero_grad()
    torch.manual_seed(3)
    memory = model.encode(batch.src)
    memory.states.retain_grad()
    decoded = decode(model.decoder, batch.tgt_in, memory)
    draw = torch.Generator().manual_seed(7)
    parts = [decoded.features, decoded.weights, decoded.contexts]
    real = batch.tgt_in.mask[..., None]
    value = sum((torch.randn(part.shape, generator=draw, dtype=part.dtype) * part * real).sum() for part in parts)
    value.backward()
    named = {name: parameter.grad for name, parameter in model.named_parameters() if parameter.grad is not None}
    return {"value": value.detach(), "memory": memory.states.grad, **named}


@each
@pytest.mark.parametrize("dropout", [0.0, 0.4], ids=["whole", "dropped"])
def test_values_and_gradients_are_those_of_the_steps(kind, dropout):
    """With variational dropout too: its masks are drawn before the loop, so both drop the same."""
    model, batch = fresh(kind), batch_of(kind)
    for module in model.modules():
        if isinstance(module, SequenceDropout):
            module.rate, module.variational = dropout, True
    quick = gradients(model, batch, lambda decoder, tgt_in, memory: decoder(tgt_in, memory, weights=True))
    slow = gradients(model, batch, stepped)
    assert quick.keys() == slow.keys()
    assert len(quick) > 8
    for name, expected in slow.items():
        torch.testing.assert_close(
            quick[name], expected, rtol=1e-9, atol=1e-11, msg=lambda told, name=name: name + told
        )


@pytest.mark.parametrize(
    "kind", [kind for kind in FEW.values() if kind.decoder in RECURRENT_DECODERS], ids=lambda kind: kind.name
)
def test_which_way_is_taken(kind, monkeypatch):
    """The loop where it knows cell and score, and one layer is all that must wait; the steps everywhere else."""
    started = []
    for name in ("_Bahdanau", "_Feeding"):
        monkeypatch.setattr(getattr(loops, name), "apply", _told(getattr(loops, name).apply, name, started))
    model, batch = model_of(kind), batch_of(kind)
    model.decoder(batch.tgt_in, model.encode(batch.src))
    knows = kind.attention in TOLD and not kind.layer_norm
    expected = {"feeding": "_Feeding", "bahdanau": "_Bahdanau", "gnmt": "_Bahdanau"}.get(kind.decoder)
    one = kind.layers == 1 or kind.decoder == "gnmt"
    assert started == ([expected] if expected and knows and one else [])


def _told(function, name, started):
    return lambda *inputs: started.append(name) or function(*inputs)


@pytest.mark.parametrize("kind", list(FUSED.values())[::25])
def test_it_passes_gradcheck(kind):
    """Against finite differences: nothing is shared with another backward."""
    model, batch = fresh(kind).eval(), batch_of(kind, (3, 1), (2, 3))
    memory = model.encode(batch.src)
    states = memory.states.detach().requires_grad_()

    def decode(states, *parameters):
        decoded = model.decoder(batch.tgt_in, type(memory)(states, memory.mask, memory.summary), weights=True)
        return decoded.features, decoded.weights

    named = model.decoder.named_parameters()  # the embedding gives PAD no gradient, though it has one
    parameters = [parameter for name, parameter in named if parameter.numel() < 60 and "embed" not in name]
    assert torch.autograd.gradcheck(decode, (states, *parameters), atol=1e-7)


def test_each_position_drops_its_own():
    """Plain dropout in the fused loop: as many features as the rate says, others at each position."""
    kind = next(kind for kind in FUSED.values() if kind.decoder == "feeding")
    model, batch = fresh(kind), batch_of(kind, (3,) * 200, (6,) * 200)
    for module in model.modules():
        if isinstance(module, SequenceDropout):
            module.rate = 0.25
    features = model.decoder(batch.tgt_in, model.encode(batch.src)).features
    dropped = features == 0
    assert 0.22 < dropped.double().mean() < 0.28
    assert not torch.equal(dropped[:, 0], dropped[:, 1])


@pytest.mark.parametrize("decoder", ["bahdanau", "feeding"])
def test_what_the_loop_kept_is_freed_with_the_graph(decoder):
    """No cycle holds it: memory would fill until the collector runs."""
    kind = next(kind for kind in FUSED.values() if kind.decoder == decoder)
    model, batch = fresh(kind), batch_of(kind)

    def traces():
        return sum(type(thing) in (LSTMTrace, GRUTrace) for thing in gc.get_objects()) - shelf.idle()

    gc.collect()
    gc.disable()
    try:
        memory = model.encode(batch.src)
        before = traces()  # a small encoder has one of its own
        decoded = model.decoder(batch.tgt_in, memory, weights=True)
        assert traces() == before + 1
        del decoded
        assert traces() == before
        del memory
        assert traces() == 0
    finally:
        gc.enable()


def test_nothing_is_kept_where_no_gradient_is_wanted():
    kind = next(iter(FUSED.values()))
    model, batch = fresh(kind), batch_of(kind)
    with torch.no_grad():
        assert model.decoder(batch.tgt_in, model.encode(batch.src)).features.grad_fn is None
