"""The moving average of the weights: its formula, what is measured and kept, and nothing of it in training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

import itda
from itda import weights
from itda.config import Config, DataConfig, DecoderConfig, EncoderConfig, ModelConfig, TokenizerConfig, TrainConfig
from itda.training import checkpoint
from itda.training.loop import ValidationReport
from itda.training.session import open_session
from itda.training.shadow import Shadow, decay_at


def test_the_decay_begins_low_and_ends_as_asked():
    assert decay_at(0.999, 0) == pytest.approx(0.1)
    assert decay_at(0.999, 8) == pytest.approx(0.5)
    assert decay_at(0.5, 100) == 0.5
    assert decay_at(0.999, 10**6) == 0.999


def tied() -> nn.Module:
    model = nn.ModuleDict({"embed": nn.Embedding(5, 3), "output": nn.Linear(3, 5)})
    model["output"].weight = model["embed"].weight
    return model.double()


def test_it_follows_by_its_formula():
    model = tied()
    expected = {name: value.detach().clone() for name, value in model.named_parameters()}
    shadow = Shadow(model, 0.8)
    for step in range(40):
        with torch.no_grad():
            for value in model.parameters():
                value.add_(torch.randn_like(value))
        shadow.follow(step)
        for name, value in model.named_parameters():
            d = min(0.8, (1 + step) / (10 + step))
            expected[name] = d * expected[name] + (1 - d) * value.detach()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with shadow.shown() as own:
        for name, value in model.named_parameters():
            torch.testing.assert_close(value.detach(), expected[name], rtol=0, atol=1e-12)
            assert torch.equal(own[name], before[name])
        assert model["output"].weight is model["embed"].weight
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_weights_come_back_after_an_error():
    model = tied()
    shadow = Shadow(model, 0.9)
    with torch.no_grad():
        model["output"].bias.zero_()
    with pytest.raises(RuntimeError), shadow.shown():
        raise RuntimeError
    assert not model["output"].bias.any()


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Config:
    folder = tmp_path_factory.mktemp("shadow")
    (folder / "pairs.tsv").write_text("".join(f"{w}a b\tb {w}a\n" for w in "cdefghij"), encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITDA_CACHE", str(folder / "cache"))
        patch.setattr("itda.training.entry.draw_curve", lambda run: None)
        model = ModelConfig(embedding_dim=4, encoder=EncoderConfig(dim=4), decoder=DecoderConfig(dim=4))
        data = DataConfig(train=str(folder / "pairs.tsv"), valid=str(folder / "pairs.tsv"))
        train = TrainConfig(updates=6, batch=3, validate_every=2, ema=0.9, keep=9)
        yield Config(data=data, tokenizer=TokenizerConfig(kind="characters"), model=model, train=train)


def trained(config: Config, path: Path) -> list:
    """All reports of a run."""
    reports = []
    with pytest.warns(UserWarning, match="learned by heart"):
        itda.train(config, run=path, on_report=reports.append)
    return reports


@pytest.mark.parametrize("average", [1, 2])
def test_what_is_measured_and_kept_is_the_average(recipe, tmp_path, average):
    """Of the checkpoints the averages, of several averages their mean; training itself never sees them."""
    config = replace(recipe, train=replace(recipe.train, average=average))
    plain = trained(replace(config, train=replace(config.train, ema=0.0)), tmp_path / "plain")
    reports = trained(config, tmp_path / "run")
    losses = [[one.loss for one in some if not isinstance(one, ValidationReport)] for some in (plain, reports)]
    assert losses[0] == losses[1], "the updates are the same"

    folder = tmp_path / "run" / "checkpoints"
    saved = [checkpoint.read(folder / f"{step:08d}") for step in (2, 4, 6)]
    for one, step in zip(saved, (2, 4, 6), strict=True):
        own = checkpoint.read(tmp_path / "plain" / "checkpoints" / f"{step:08d}").weights()
        for name, value in one.state["own_weights"].items():
            assert torch.equal(value, own[name])
            assert not torch.equal(one.weights()[name], value)
    final = weights.read(tmp_path / "run" / "weights.safetensors", None)
    shadows = [one.weights() for one in saved]
    for name, value in final.items():
        expected = shadows[2][name] if average == 1 else ((shadows[1][name].double() + shadows[2][name]) / 2).float()
        assert torch.equal(value, expected)
    validations = [one.metrics for one in reports if isinstance(one, ValidationReport)]
    measured = open_session(config, tmp_path / "run", resume=True)
    try:
        measured.seq2seq.model.load_state_dict(shadows[2])
        assert measured.measure() == validations[-1]
    finally:
        measured.close()
