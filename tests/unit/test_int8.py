"""A rounded model writes nearly what it wrote, and neighbours change nothing in it, to the last bit."""

import math

import pytest
import torch
from zoo import FEW, Kind, batch_of, fresh

import itda
from itda.batch import EOS, pad_tokens
from itda.decode.search import beam_search
from itda.nn.factored_head import FactoredHead
from itda.nn.int8 import Int8GRUCell, Int8Head, Int8LSTMCell, round_model
from itda.nn.rounded import MOST, Int8Linear, weight_limit
from itda.seq2seq import check_int8

pytestmark = pytest.mark.skipif(not weight_limit(), reason="this CPU has no exact int8 product")
TEXT = [kind for kind in FEW.values() if kind.data == "text"]
SOURCES = [[4, 5, 6], [6, 4], [9, 9, 7, 5, 4]]


def generate(model, sources, beam=2):
    with torch.inference_mode():
        memory = model.encode(pad_tokens([[*ids, EOS] for ids in sources]))
        return [
            one[0]
            for one in beam_search(
                model.decoder, model.head, memory, beam_size=beam, max_lengths=torch.full((len(sources),), 6)
            )
        ]


@pytest.mark.parametrize("kind", TEXT, ids=lambda kind: kind.name)
def test_a_rounded_model_is_nearly_the_model_and_has_no_neighbours(kind: Kind) -> None:
    model, rounded = fresh(kind).eval(), round_model(fresh(kind).eval(), smallest=0)
    batch = batch_of(kind)
    with torch.inference_mode():
        exact, near = (one.scores(batch)[0].sum() / batch.num_targets for one in (model, rounded))
        assert near == pytest.approx(float(exact), abs=0.3)
        assert not torch.equal(exact, near)
        memory = rounded.encode(batch.src)
        decoded, _ = rounded.decoder.step(torch.tensor([5, 6, 7]), rounded.decoder.start(memory))
    assert decoded.features.isfinite().all()
    together = generate(rounded, SOURCES)
    for source, one in zip(SOURCES, together, strict=True):
        (alone,) = generate(rounded, [source])
        assert alone.ids == one.ids
        assert alone.log_prob == pytest.approx(one.log_prob, abs=1e-9)
    head = rounded.head.words if isinstance(rounded.head, FactoredHead) else rounded.head
    assert isinstance(head, Int8Head)


def test_parts_are_rounded_where_it_pays() -> None:
    model = fresh(Kind(decoder="feeding", decoder_cell="gru")).eval()
    weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert not any(isinstance(part, Int8Linear) for part in round_model(model).modules())  # all of it is small
    assert all(torch.equal(tensor, weights[name]) for name, tensor in model.state_dict().items())
    round_model(model, smallest=0)
    assert isinstance(model.decoder.stack.cells[0], Int8GRUCell)
    assert isinstance(round_model(fresh(Kind()), smallest=0).decoder.stack.cells[0], Int8LSTMCell)


def test_a_rounded_map() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Linear(64, 48)
    rounded = Int8Linear(plain.weight, plain.bias)
    values = torch.randn(3, 5, 64)
    with torch.no_grad():
        off = (rounded(values) - plain(values)).norm() / plain(values).norm()
        assert 1e-4 < off < 0.02
        torch.testing.assert_close(rounded.weight, plain.weight, rtol=0, atol=float(plain.weight.abs().max()) / 120)
        assert rounded(values[:, :0]).shape == (3, 0, 48)
        zeros = rounded(torch.zeros(2, 64))
        assert torch.equal(zeros, plain.bias.expand(2, -1))
        assert math.isnan(float(rounded(torch.full((1, 64), math.nan))[0, 0]))  # what diverged is not hidden
    assert rounded.whole.dtype == torch.int8
    assert int(rounded.whole.abs().max()) <= MOST


def test_int8_is_for_a_cpu() -> None:
    with pytest.raises(itda.UserError, match="int8 is for a CPU, and device is meta"):
        check_int8(torch.device("meta"))
