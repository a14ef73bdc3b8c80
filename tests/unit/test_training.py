"""The loop: what an update adds up, when it validates, what it keeps, and when it stops."""

import copy
import itertools
import math
import time
from dataclasses import replace

import pytest
import torch
from zoo import FEW, batch_of, fresh, on_sides, rows_of, trimmed

from itda.batch import Batch
from itda.config import TrainConfig
from itda.nn.embedding import SequenceDropout
from itda.training.loop import (
    Standing,
    Update,
    UpdateReport,
    ValidationReport,
    Work,
    clip_gradients,
    key_generators,
    train,
)
from itda.training.objective import make_objective

CPU = torch.device("cpu")
TEXT = next(kind for kind in FEW.values() if kind.data == "text" and kind.decoder == "bahdanau")
VECTORS = next(kind for kind in FEW.values() if kind.data == "vectors")


def split(batch: Batch, *parts) -> tuple[Batch, ...]:
    """Micro-batches of some rows, each trimmed to its own lengths."""
    return tuple(on_sides(batch, lambda side, p=p: trimmed(rows_of(side, torch.tensor(p)))) for p in parts)


class Rig:
    """A loop over one batch, with validations that were written beforehand."""

    def __init__(self, config, kind=TEXT, script=(), updates=None, per_epoch=4, optimizer=None, interrupted=None):
        self.model = fresh(kind)
        for module in self.model.modules():
            if isinstance(module, SequenceDropout):
                module.rate = 0.0
        self.saved, self.asked, self.modes = [], [], []
        self.script = iter(script)
        batch = batch_of(kind)
        updates = updates or [Update((batch,), batch.num_targets)] * per_epoch
        make = optimizer or (lambda parameters: torch.optim.SGD(parameters, lr=0.0))

        def epoch_updates(epoch, start):
            self.asked.append((epoch, start))
            yield from updates[start:]

        def validate():
            self.modes.append(self.model.training)
            return dict(next(self.script, {}))

        self.work = Work(
            config=config,
            model=self.model,
            optimizer=make(self.model.parameters()),
            objective=make_objective(config),
            epoch_updates=epoch_updates,
            updates_in=lambda epoch: len(updates),
            validate=validate,
            save=lambda standing: self.saved.append(copy.deepcopy(standing)),
            device=CPU,
            started=time.monotonic(),
            interrupted=interrupted or (lambda: False),
        )

    def run(self, standing=None):
        """All reports, and where training stands after them."""
        self.standing = standing or Standing()
        return list(train(self.work, self.standing))

    def gradients(self):
        return [parameter.grad.clone() for parameter in self.model.parameters()]


def updates_of(reports):
    return [report for report in reports if isinstance(report, UpdateReport)]


def validations_of(reports):
    return [report for report in reports if isinstance(report, ValidationReport)]


# --- one update --------------------------------------------------------------------------------------------------


CASES = [(kind, smoothing) for kind in FEW.values() for smoothing in (0.0, 0.2) if not smoothing or kind.data == "text"]


@pytest.mark.parametrize(("kind", "smoothing"), CASES, ids=lambda value: getattr(value, "name", value))
def test_unequal_micro_batches_are_one_big_batch(kind, smoothing):
    """Gradients, losses and weights after the step: the divisor is the tokens of the whole update."""
    whole = batch_of(kind, src=(5, 2, 4, 3, 1), tgt=(6, 1, 2, 4, 3))
    config = TrainConfig(updates=1, clip_norm=0.0, learning_rate=0.1)
    found = []
    for micro in ((whole,), split(whole, [1], [0, 2, 3], [4]), split(whole, [4, 0, 3, 1], [2])):
        rig = Rig(config, kind, updates=[Update(micro, whole.num_targets)])
        if kind.data == "text":
            getattr(rig.model.head, "words", rig.model.head).label_smoothing = smoothing
        (report, _) = rig.run()
        found.append((report, rig.gradients(), [p.detach().clone() for p in rig.model.parameters()]))
    (expected, gradients, weights), *others = found
    for report, grads, after in others:
        assert report.loss == pytest.approx(expected.loss, abs=1e-9)
        assert report.nll == pytest.approx(expected.nll, abs=1e-9)
        assert report.grad_norm == pytest.approx(expected.grad_norm, abs=1e-9)
        assert report.num_targets == whole.num_targets
        for one, other in itertools.chain(zip(grads, gradients, strict=True), zip(after, weights, strict=True)):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


def test_the_loss_is_that_of_a_target_token():
    whole = batch_of(TEXT)
    rig = Rig(TrainConfig(updates=1, clip_norm=0.0), updates=[Update(split(whole, [0], [1, 2]), whole.num_targets)])
    sums = rig.model.loss(whole)
    expected = torch.autograd.grad(sums.objective / int(whole.tgt_out.mask.sum()), list(rig.model.parameters()))
    (report, _) = rig.run()
    assert report.nll == pytest.approx(sums.nll.item() / whole.num_targets)
    for one, other in zip(rig.gradients(), expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)


def test_a_mean_of_means_would_be_seen():
    """The check on the check: dividing each micro-batch by its own tokens gives another gradient."""
    whole = batch_of(TEXT, tgt=(6, 1, 1))
    parts = split(whole, [0], [1, 2])
    model = fresh(TEXT).eval()
    parameters = list(model.parameters())
    right = torch.autograd.grad(model.loss(whole).objective / whole.num_targets, parameters)
    wrong = [torch.autograd.grad(model.loss(part).objective / part.num_targets / 2, parameters) for part in parts]
    assert not any(torch.allclose(a, b + c) for a, b, c in zip(right, *wrong, strict=True) if a.any())


def test_gradients_are_clipped_after_all_micro_batches():
    config = TrainConfig(updates=1, clip_norm=0.01, learning_rate=1.0)
    rig = Rig(config)
    before = [parameter.detach().clone() for parameter in rig.model.parameters()]
    (report, _) = rig.run()
    assert report.grad_norm > 0.01, "the norm that is reported is the one before"
    moved = torch.stack([(a - b).square().sum() for a, b in zip(before, rig.model.parameters(), strict=True)]).sum()
    assert moved.sqrt().item() == pytest.approx(0.01, rel=1e-3)


@pytest.mark.parametrize("limit", [0.0, 0.5, 1e6])
def test_clipping_is_torchs_bit_for_bit(limit):
    model = fresh(VECTORS).float()
    optimizer = torch.optim.Adam(model.parameters())
    parameters = list(model.parameters())
    for parameter in parameters[1:]:  # one has none, as a frozen one
        parameter.grad = torch.randn_like(parameter)
    other = copy.deepcopy(model)
    for parameter, twin in zip(parameters[1:], list(other.parameters())[1:], strict=True):
        twin.grad = parameter.grad.clone()
    norm = torch.nn.utils.clip_grad_norm_(other.parameters(), limit or math.inf)
    assert torch.equal(clip_gradients(optimizer, limit), norm)
    for parameter, twin in zip(parameters[1:], list(other.parameters())[1:], strict=True):
        assert torch.equal(parameter.grad, twin.grad)


def test_a_caller_that_puts_the_model_into_evaluation_disturbs_nothing():
    """Whoever writes a sample between two reports, as a notebook does."""
    rig = Rig(TrainConfig(updates=3))
    modes = []
    for report in train(rig.work, Standing()):
        modes.append((type(report), rig.model.training, rig.model.decoder.training))
        rig.model.eval()
    assert [mode for mode in modes if mode[0] is UpdateReport] == [(UpdateReport, True, True)] * 3


def test_an_update_starts_from_no_gradient():
    """Two updates at rate 0 have the same gradient, not one and two of it."""
    rig = Rig(TrainConfig(updates=2, clip_norm=0.0, learning_rate=1e-30))
    one, other = updates_of(rig.run())
    assert one.grad_norm == other.grad_norm > 0


def test_the_rate_of_the_schedule_is_the_optimizers():
    rig = Rig(TrainConfig(updates=6, warmup=3, learning_rate=0.3, schedule="inverse-sqrt"))
    seen = []
    rig.work.optimizer.register_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    reports = updates_of(rig.run())
    assert seen == [report.learning_rate for report in reports]
    assert seen[:3] == pytest.approx([0.1, 0.2, 0.3])
    assert seen[5] == pytest.approx(0.3 * math.sqrt(0.5))


def test_dropout_and_coins_depend_on_seed_and_step_alone():
    def draws(seed, step):
        coins = key_generators(seed, step, torch.device("cpu"))
        return torch.rand(4).tolist(), torch.rand(4, generator=coins).tolist()

    assert draws(1, 7) == draws(1, 7)
    dropout, coins = draws(1, 7)
    assert dropout != coins, "two streams"
    seen = {tuple(draws(seed, step)[0]) for seed in range(5) for step in range(20)}
    assert len(seen) == 100


def test_mixed_precision_trains():
    config = TrainConfig(updates=1, autocast="bfloat16")
    rig = Rig(config)
    rig.model.float()
    (report, _) = rig.run()
    assert math.isfinite(report.loss)
    assert all(parameter.dtype == torch.float32 for parameter in rig.model.parameters())


# --- how long ----------------------------------------------------------------------------------------------------


def test_a_budget_in_updates():
    rig = Rig(TrainConfig(updates=10, validate_every=4))
    reports = rig.run()
    assert [report.step for report in updates_of(reports)] == list(range(1, 11))
    assert [report.step for report in validations_of(reports)] == [4, 8, 10], "and at the end, once"
    assert [standing.step for standing in rig.saved] == [4, 8, 10]
    assert rig.standing.stopped == "budget of 10 updates used"
    assert [report.progress for report in updates_of(reports)] == pytest.approx([step / 10 for step in range(10)])
    assert rig.asked == [(0, 0), (1, 0), (2, 0)]
    assert (rig.standing.epoch, rig.standing.position) == (2, 2)


def test_a_validation_at_the_end_is_not_done_twice():
    assert [report.step for report in validations_of(Rig(TrainConfig(updates=8, validate_every=4)).run())] == [4, 8]


@pytest.mark.parametrize(("epochs", "last"), [(1.0, 4), (2.0, 8), (0.5, 2), (1.3, 6)])
def test_a_budget_in_epochs_may_be_a_fraction(epochs, last):
    rig = Rig(TrainConfig(epochs=epochs, validate_every=100))
    assert updates_of(rig.run())[-1].step == last
    assert "epochs" in rig.standing.stopped


def test_a_budget_in_minutes_counts_what_was_trained_before(monkeypatch):
    now = itertools.count(0.0, 0.5)
    monkeypatch.setattr("itda.training.loop.time.monotonic", lambda: next(now))
    rig = Rig(TrainConfig(minutes=0.5, validate_every=1000))
    rig.work = replace(rig.work, started=0.0)
    rig.run()
    assert "minutes" in rig.standing.stopped
    assert 30 <= rig.standing.seconds <= 33
    now = itertools.count(0.0, 0.5)
    later = Rig(TrainConfig(minutes=1.0, validate_every=1000))
    later.work = replace(later.work, started=0.0)
    later.run(Standing(step=5, seconds=50.0))
    assert 60 <= later.standing.seconds <= 63


def test_the_first_budget_that_is_used_up_counts():
    rig = Rig(TrainConfig(updates=100, epochs=1.0))
    reports = rig.run()
    assert rig.standing.step == 4
    assert updates_of(reports)[-1].progress == pytest.approx(0.75), "progress is the largest share"


def test_what_has_stopped_stays_stopped():
    rig = Rig(TrainConfig(updates=3))
    rig.run()
    assert rig.run(rig.standing) == []


def test_a_budget_that_was_used_up_before_is_not_exceeded():
    """A resume with fewer updates than were done already does no more."""
    rig = Rig(TrainConfig(updates=3))
    reports = rig.run(Standing(step=5))
    assert updates_of(reports) == []
    assert "3 updates" in rig.standing.stopped


def test_going_on_begins_where_it_stood():
    rig = Rig(TrainConfig(updates=7))
    rig.run(Standing(step=5, epoch=1, position=1))
    assert rig.asked == [(1, 1)]
    assert [standing.step for standing in rig.saved] == [7]


@pytest.mark.parametrize(("every", "saved"), [(100, [3]), (3, [3]), (2, [2, 3])])
def test_an_interruption_saves_and_can_go_on(every, saved):
    done = []
    rig = Rig(TrainConfig(updates=10, validate_every=every), interrupted=lambda: len(done) >= 3)
    standing = Standing()
    for report in train(rig.work, standing):
        if isinstance(report, UpdateReport):
            done.append(report.step)
    assert done == [1, 2, 3]
    assert standing.stopped == ""
    assert [one.step for one in rig.saved] == saved
    done.clear()
    going_on = Rig(TrainConfig(updates=4, validate_every=every))
    assert [report.step for report in updates_of(going_on.run(standing))] == [4]


# --- what is watched ---------------------------------------------------------------------------------------------


def watch(metric, values, **settings):
    config = TrainConfig(updates=len(values), validate_every=1, metric=metric, **settings)
    rig = Rig(config, script=[{"loss": 1.0} | {metric: value} for value in values])
    return rig, rig.run()


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        ("loss", [3.0, 2.0, 2.5, 1.0, 1.0], [True, True, False, True, False]),
        ("perplexity", [3.0, 4.0, 2.0], [True, False, True]),
        ("bleu", [3.0, 2.0, 2.5, 4.0, 4.0], [True, False, False, True, False]),
        ("exact_match", [0.0, 0.0, 0.5], [True, False, True]),
        ("token_accuracy", [0.2, 0.1], [True, False]),
        ("chrf", [1.0, 2.0], [True, True]),
        ("loss", [math.nan, 2.0, math.inf, -math.inf], [False, True, False, False]),
    ],
)
def test_the_best_is_the_first_of_the_best(metric, values, best):
    rig, reports = watch(metric, values)
    assert [report.best for report in validations_of(reports)] == best
    last = max(place for place, flag in enumerate(best) if flag)
    assert rig.standing.best_step == last + 1
    assert rig.standing.best_metric == values[last]
    assert rig.standing.worse == len(values) - 1 - last
    assert rig.standing.validated == list(range(1, len(values) + 1))


def test_another_metric_than_the_watched_one_changes_nothing():
    config = TrainConfig(updates=3, validate_every=1, metric="bleu")
    rig = Rig(config, script=[{"bleu": b, "loss": n} for b, n in ((2.0, 1.0), (1.0, 0.5), (1.5, 0.1))])
    rig.run()
    assert rig.standing.best_step == 1


def test_equals_are_told_apart_by_the_loss():
    """Exact match is 0 for long at first; the model that comes nearer is kept meanwhile."""
    config = TrainConfig(updates=4, validate_every=1, metric="exact_match")
    script = [{"exact_match": e, "loss": n} for e, n in ((0.0, 3.0), (0.0, 2.0), (0.0, 2.5), (0.1, 9.0))]
    rig = Rig(config, script=script)
    assert [report.best for report in validations_of(rig.run())] == [True, True, False, True]


def test_without_validation_pairs_the_last_weights_are_the_best():
    rig = Rig(TrainConfig(updates=6, validate_every=2))
    reports = rig.run()
    assert [report.best for report in validations_of(reports)] == [False] * 3
    assert rig.standing.best_step == 6
    assert rig.standing.worse == 0


def test_patience_ends_training():
    rig, reports = watch("loss", [3.0, 2.0, 2.1, 2.2, 1.0], patience=2)
    assert len(updates_of(reports)) == 4
    assert rig.standing.stopped == "no better loss in 2 validations"
    assert rig.standing.best_step == 2
    assert rig.saved[-1].stopped, "that it has stopped is saved"


def test_patience_0_never_ends_it():
    rig, reports = watch("loss", [1.0, 2.0, 3.0, 4.0])
    assert len(updates_of(reports)) == 4
    assert "budget" in rig.standing.stopped


def test_patience_starts_anew_with_each_best():
    _, reports = watch("loss", [3.0, 3.1, 2.0, 2.1, 1.0, 1.1, 1.2, 0.0], patience=2)
    assert len(updates_of(reports)) == 7


def test_plateau_lowers_the_rate_after_its_patience():
    rig, reports = watch(
        "loss",
        [3.0, 3.1, 3.2, 3.3, 3.4, 2.0, 2.1, 2.2],
        schedule="plateau",
        learning_rate=0.8,
        plateau_factor=0.5,
        plateau_patience=2,
    )
    rates = [report.learning_rate for report in updates_of(reports)]
    assert rates == pytest.approx([0.8, 0.8, 0.8, 0.4, 0.4, 0.2, 0.2, 0.2])
    assert rig.standing.plateau_scale == pytest.approx(0.125)


def test_validation_is_without_dropout_and_training_with():
    rig = Rig(TrainConfig(updates=2, validate_every=1), script=[{"loss": 1.0}] * 2)
    training = []
    rig.work.optimizer.register_step_pre_hook(lambda *_: training.append(rig.model.training))
    rig.run()
    assert rig.modes == [False, False]
    assert training == [True, True]


def test_standing_is_plain_and_comes_back():
    rig, _ = watch("loss", [3.0, math.inf, 2.0])
    assert Standing(**rig.standing.to_json()) == rig.standing


def test_a_rehearsed_loop_learns():
    """Whatever else holds: the loss falls, for text and for vectors."""
    for kind in (TEXT, VECTORS):
        rig = Rig(TrainConfig(updates=60, learning_rate=0.05), kind, optimizer=lambda p: torch.optim.Adam(p, lr=0.05))
        reports = updates_of(rig.run())
        assert reports[-1].loss < 0.2 * reports[0].loss
