"""The lecture's program through itda, by recipe and by `itda.fit`, for any sizes; and where its script stops short."""

import random
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import itda
from itda.config import load
from itda.training.loop import UpdateReport

RECIPE = Path(__file__).resolve().parent.parent.parent / "recipes" / "lecture-vectors.toml"


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("itda.training.entry.draw_curve", lambda run: None)


def test_the_recipe_is_the_lectures_program():
    config = load(RECIPE)
    data, encoder, decoder, train = config.data, config.model.encoder, config.model.decoder, config.train
    assert (data.pairs, data.length, data.src_dim, data.tgt_dim) == (2, 5, 10, 10)
    for part in (encoder, decoder):
        assert (part.cell, part.dim, part.num_layers) == ("lstm", 128, 1)
    assert (decoder.kind, decoder.bridge, encoder.bidirectional, config.model.dropout) == ("plain", "copy", False, 0.0)
    assert (train.epochs, train.optimizer, train.learning_rate, train.report_every) == (1000, "adam", 0.01, 100)
    forcing = train.teacher_forcing
    assert (forcing.ratio, forcing.schedule, forcing.granularity, forcing.form) == (0.5, "constant", "step", "exact")


def lecture_model_size() -> int:
    """The parameters of the lecture's script."""
    encoder, decoder, output = nn.LSTM(10, 128), nn.LSTM(10, 128), nn.Linear(128, 10)
    return sum(parameter.numel() for module in (encoder, decoder, output) for parameter in module.parameters())


def test_the_recipe_runs_and_predicts_without_teacher_forcing():
    """In a fifth of its 1000 epochs it has the targets by heart; the loss is there to print every 100."""
    printed = []

    def show(report):
        if isinstance(report, UpdateReport) and report.step % 100 == 0:
            printed.append(report.loss)

    model = itda.train(RECIPE, epochs=200, run="run", on_report=show)
    assert sum(parameter.numel() for parameter in model.model.parameters()) == lecture_model_size()
    assert len(printed) == 2
    assert printed[-1] < 0.05 < 0.5 < first_loss(Path("run"))
    src, tgt = drawn(load(RECIPE).data)
    predicted = itda.load("run").predict(src, length=5)
    assert nn.functional.mse_loss(predicted, tgt).item() < 1e-2


def first_loss(run: Path) -> float:
    from itda.run import read_metrics

    return read_metrics(run / "metrics.jsonl")[0]["loss"]


def drawn(data) -> tuple[Tensor, Tensor]:
    """The random vectors of make:normal, as the lecture draws them."""
    from itda.data.vectors import load_vectors

    pairs = load_vectors("make:normal", data)
    return tuple(torch.stack([torch.from_numpy(one) for one in side]) for side in (pairs.src, pairs.tgt))


def test_fit_on_the_lectures_tensors():
    torch.manual_seed(1)
    src, tgt = torch.randn(2, 5, 10), torch.randn(2, 5, 10)
    losses = []
    model = itda.fit(zip(src, tgt, strict=True), updates=200, on_report=lambda report: losses.append(report))
    assert losses[99].loss < losses[0].loss
    predicted = model.predict(src, length=5)
    assert predicted.shape == tgt.shape
    assert nn.functional.mse_loss(predicted, tgt).item() < 1e-2


def test_any_sizes():
    """Three pairs, lengths 4 and 7, 6 numbers in and 2 out."""
    torch.manual_seed(2)
    src, tgt = torch.randn(3, 4, 6), torch.randn(3, 7, 2)
    settings = ("train.batch=3", "model.encoder.dim=48", "model.decoder.dim=48")
    model = itda.fit(zip(src, tgt, strict=True), *settings, updates=250)
    predicted = model.predict(src, length=7)
    assert predicted.shape == tgt.shape
    assert nn.functional.mse_loss(predicted, tgt).item() < 1e-2


def test_lengths_may_differ_from_pair_to_pair():
    torch.manual_seed(3)
    lengths = [(3, 2), (5, 4), (2, 6)]
    pairs = [(torch.randn(a, 3), torch.randn(b, 2)) for a, b in lengths]
    settings = ("train.batch=2", "train.accumulate=2", "model.encoder.dim=32", "model.decoder.dim=32")
    model = itda.fit(pairs, *settings, updates=200)
    predicted = model.predict([src for src, _ in pairs], length=6)
    errors = [
        nn.functional.mse_loss(row[: len(tgt)], tgt).item() for row, (_, tgt) in zip(predicted, pairs, strict=True)
    ]
    assert max(errors) < 3e-2


class Lecture(nn.Module):
    """The lecture's own script: the decoder begins with the first row of the target, and row 0 stays zero."""

    def __init__(self, src_dim: int, tgt_dim: int, dim: int) -> None:
        super().__init__()
        self.encoder = nn.LSTM(src_dim, dim, batch_first=True)
        self.decoder = nn.LSTM(tgt_dim, dim, batch_first=True)
        self.output = nn.Linear(dim, tgt_dim)

    def forward(self, src: Tensor, tgt: Tensor, ratio: float) -> Tensor:
        _, state = self.encoder(src)
        outputs, given = torch.zeros_like(tgt), tgt[:, 0]
        for position in range(1, tgt.shape[1]):
            hidden, state = self.decoder(given[:, None], state)
            outputs[:, position] = self.output(hidden[:, 0])
            given = tgt[:, position] if random.random() < ratio else outputs[:, position]
        return outputs


def test_the_lectures_own_loss_has_a_floor_and_ours_goes_below_it():
    """Its output at t = 0 is always zero and counted: the loss cannot fall under mean(tgt[:, 0] ** 2) / 5."""
    torch.manual_seed(4)
    random.seed(4)
    src, tgt = torch.randn(2, 5, 10), torch.randn(2, 5, 10)
    floor = tgt[:, 0].square().mean().item() / tgt.shape[1]
    theirs = Lecture(10, 10, 128)
    optimizer = torch.optim.Adam(theirs.parameters(), lr=0.01)
    for _ in range(200):
        loss = nn.functional.mse_loss(theirs(src, tgt, 0.5), tgt)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.item() > floor * (1 - 1e-5)
    assert loss.item() == pytest.approx(floor, rel=0.1), "it has learned all that it can"
    losses = []
    ours = itda.fit(zip(src, tgt, strict=True), updates=200, on_report=lambda report: losses.append(report))
    final = [report.loss for report in losses if isinstance(report, UpdateReport)][-1]
    assert final < 0.2 * floor
    predicted = ours.predict(src, length=5)
    assert nn.functional.mse_loss(predicted, tgt).item() < 0.2 * floor
    assert nn.functional.mse_loss(predicted[:, 0], tgt[:, 0]).item() < 1e-2, "the first row is predicted too"
