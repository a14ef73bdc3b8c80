"""A walk, which owns its state and writes over it, says what repeated `step` says, whatever leaves, moves or widens."""

import copy

import pytest
import torch
from zoo import ATTENTIONS, DECODERS, FEW, OTHER_DECODERS, Kind, batch_of, fresh, model_of

from itda.decode.ensemble import join
from itda.nn.int8 import round_model
from itda.nn.interface import Engine, PureEngine, State
from itda.nn.rounded import weight_limit
from itda.nn.walks.recurrent import BahdanauEngine, LuongEngine
from itda.nn.walks.transformer import TransformerEngine

TEXT = {name: kind for name, kind in FEW.items() if kind.data == "text"}
few = pytest.mark.parametrize("kind", TEXT.values(), ids=TEXT)
STEPS = 24


def compare(decoded, expected, looks):
    torch.testing.assert_close(decoded.features, expected.features, rtol=0, atol=1e-11)
    for name in ("weights", "contexts"):
        assert (getattr(decoded, name) is not None) == looks
        if looks:
            torch.testing.assert_close(getattr(decoded, name), getattr(expected, name), rtol=0, atol=1e-11)


def within_sentences(sentences, width, draw):
    """Rows that each come from their own sentence."""
    return (torch.arange(sentences)[:, None] * width + torch.randint(width, (sentences, width), generator=draw)).ravel()


@few
@torch.inference_mode()
def test_a_walk_is_repeated_step(kind):
    """With one row a sentence, then three; beams die out and double, sentences leave, and the store overflows."""
    model, draw = model_of(kind), torch.Generator().manual_seed(2)
    memory = model.encode(batch_of(kind).src)
    walk, state = model.decoder.engine().start(memory, weights=True), model.decoder.start(memory)
    for position in range(STEPS):
        if position == 2:
            walk.widen(3)
            state = state.widen(3)
        if position in (9, 17):
            kept = torch.tensor([2, 0] if position == 9 else [1])
            walk.select(kept)
            state = state.select(kept)
        if position > 2 and position % 4:
            rows = within_sentences(len(state.memory.mask), state.width, draw)
            walk.reorder(rows)
            state = state.reorder(rows)
        assert (walk.width, len(walk.memory.mask)) == (state.width, len(state.memory.mask))
        previous = torch.randint(1, 11, (state.width * len(state.memory.mask),), generator=draw)
        (expected, state), decoded = model.decoder.step(previous, state), walk.step(previous)
        compare(decoded, expected, kind.looks)


@torch.inference_mode()
def test_an_ensemble_walks_with_the_engines_of_its_members():
    """A member with an engine of its own beside one that goes step by step."""
    members = [model_of(Kind(decoder=name)) for name in ("transformer", "plain", "feeding")]
    model, draw = join(members), torch.Generator().manual_seed(6)
    memory = model.encode(batch_of(Kind(decoder="plain")).src)
    walk, state = model.decoder.engine().start(memory, weights=True), model.decoder.start(memory)
    assert [type(part).__name__ for part in walk.parts] == ["TransformerWalk", "PureWalk", "LuongWalk"]
    for position in range(6):
        if position == 2:
            walk.widen(3)
            state = state.widen(3)
        if position == 4:
            kept = torch.tensor([2, 0])
            walk.select(kept)
            state = state.select(kept)
        if position > 2:
            rows = within_sentences(len(state.memory.mask), state.width, draw)
            walk.reorder(rows)
            state = state.reorder(rows)
        previous = torch.randint(1, 11, (state.width * len(state.memory.mask),), generator=draw)
        (expected, state), decoded = model.decoder.step(previous, state), walk.step(previous)
        log_probs = model.head.log_probs(decoded, walk.memory)
        torch.testing.assert_close(log_probs, model.head.log_probs(expected, state.memory), rtol=0, atol=1e-11)
        torch.testing.assert_close(decoded.weights, expected.weights, rtol=0, atol=1e-11)


@few
@torch.inference_mode()
def test_one_engine_serves_many_walks(kind):
    """Two walks at the same time, from one engine that has seen enough to have its tables, and without weights."""
    model = model_of(kind)
    memory, engine = model.encode(batch_of(kind).src), model.decoder.engine()
    walks = [engine.start(memory, weights=False) for _ in range(2)]
    states: list[State] = [model.decoder.start(memory) for _ in range(2)]
    draw = torch.Generator().manual_seed(4)
    for _ in range(8):
        for number, walk in enumerate(walks):
            previous = torch.randint(1, 11, (3,), generator=draw)
            expected, states[number] = model.decoder.step(previous, states[number])
            decoded = walk.step(previous)
            torch.testing.assert_close(decoded.features, expected.features, rtol=0, atol=1e-11)
            if not isinstance(engine, PureEngine):
                assert decoded.weights is None


@pytest.mark.parametrize("kind", [kind for kind in TEXT.values() if kind.decoder in OTHER_DECODERS])
@torch.inference_mode()
def test_a_walk_in_single_precision(kind):
    """Where other kernels of torch's are at work."""
    model, draw = copy.deepcopy(model_of(kind)).float(), torch.Generator().manual_seed(8)
    memory = model.encode(batch_of(kind).src)
    memory = memory.select(torch.arange(len(memory.mask)).repeat(100))
    walk, state = model.decoder.engine().start(memory, weights=False), model.decoder.start(memory)
    for _ in range(STEPS):
        previous = torch.randint(1, 11, (len(memory.mask),), generator=draw)
        (expected, state), decoded = model.decoder.step(previous, state), walk.step(previous)
        torch.testing.assert_close(decoded.features, expected.features, rtol=0, atol=1e-4)


def expected_engine(kind: Kind, rounded: bool = False) -> type[Engine]:
    if kind.decoder in OTHER_DECODERS:
        return TransformerEngine
    known = kind.layers == 1 and not kind.layer_norm and kind.attention in ATTENTIONS and not rounded
    if not known or kind.decoder not in DECODERS or kind.decoder == "plain":
        return PureEngine
    return BahdanauEngine if kind.decoder == "bahdanau" else LuongEngine


@pytest.mark.parametrize("kind", FEW.values(), ids=FEW)
def test_which_engine_is_taken(kind):
    """What an engine does not know is walked step by step, and so is a recurrent decoder with int8 products."""
    assert type(model_of(kind).decoder.engine()) is expected_engine(kind)
    if weight_limit() and kind.data == "text":
        rounded = round_model(fresh(kind).eval(), smallest=0)
        assert type(rounded.decoder.engine()) is expected_engine(kind, rounded=True)


@pytest.mark.skipif(not weight_limit(), reason="this CPU has no exact int8 product")
@pytest.mark.parametrize("decoder", ["transformer", "ssru", "feeding"])
@torch.inference_mode()
def test_a_rounded_model_walks_with_its_rounded_maps(decoder):
    kind = Kind(decoder=decoder)
    model, exact = round_model(fresh(kind).eval(), smallest=0), fresh(kind).eval()
    memory = model.encode(batch_of(kind).src)
    walks = [one.decoder.engine().start(memory, weights=True) for one in (model, exact)]
    state = model.decoder.start(memory)
    for token in (4, 9, 5):
        previous = torch.full((3,), token)
        expected, state = model.decoder.step(previous, state)
        decoded, other = (walk.step(previous) for walk in walks)
        compare(decoded, expected, looks=True)
        assert (decoded.features - other.features).abs().max() > 1e-5


def test_a_model_in_training_walks_step_by_step():
    """Dropout is the business of `step`."""
    kind = next(kind for kind in TEXT.values() if kind.decoder == "transformer")
    decoder = model_of(kind).decoder
    assert not isinstance(decoder.engine(), PureEngine)
    try:
        assert isinstance(decoder.train().engine(), PureEngine)
    finally:
        decoder.eval()
