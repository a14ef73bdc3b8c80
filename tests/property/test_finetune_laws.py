"""Every model can be frozen in part and grow in vocabulary: what is frozen gets no gradient, what is old stays."""

from pathlib import Path

import pytest
import torch
from zoo import FEW, VOCAB, batch_of, close, fresh

from itda.build import build_model
from itda.training.frozen import PARTS, belongs, freeze
from itda.training.start import grow
from itda.weights import load_into

# A vocabulary whose ids carry factors or tags is refused before it could grow.
GROWING = {name: kind for name, kind in FEW.items() if kind.data == "text" and not kind.factors}
ORIGINS = ((4, 7), (), (5,))


@pytest.mark.parametrize("kind", FEW.values(), ids=FEW)
def test_parts_are_all_parameters_and_each_can_be_frozen(kind):
    names = [name for name, _ in fresh(kind).named_parameters(remove_duplicate=False)]
    for name in names:
        assert sum(belongs(name, part) for part in PARTS) == 1, name
    for part in ("encoder", "decoder", "head"):
        model = fresh(kind)
        frozen = freeze(model, [part])
        before = {name: one.detach().clone() for name, one in model.named_parameters()}
        optimizer = torch.optim.AdamW([one for one in model.parameters() if one.requires_grad], weight_decay=0.1)
        model.loss(batch_of(kind)).objective.backward()
        optimizer.step()
        for name, one in model.named_parameters():
            if name in frozen.names:
                assert one.grad is None, name
                assert torch.equal(one, before[name]), name
            else:
                assert one.grad is not None, name
                assert not torch.equal(one, before[name]), name


@pytest.mark.parametrize("kind", GROWING.values(), ids=GROWING)
def test_a_grown_model_says_of_old_tokens_what_it_said(kind):
    old, batch = fresh(kind).eval(), batch_of(kind)
    new = build_model(kind.config(), VOCAB + 3, VOCAB + 3).double().eval()
    draw = torch.Generator().manual_seed(1)
    given = old.state_dict()
    load_into(new, grow(given, new.state_dict(), ORIGINS, ORIGINS, draw), Path("grown"))
    with torch.no_grad():
        want, got = (model.head.log_probs(model(batch), model.encode(batch.src)) for model in (old, new))
    assert got.shape[-1] == VOCAB + 3
    close(torch.log_softmax(got[..., :VOCAB], -1), want, atol=1e-10)
    assert torch.isfinite(got[..., VOCAB:]).all()
