"""train, fit and load: exact resume, what a resume refuses, which weights are kept, and the classroom's three lines."""

import errno
import json
import random
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import itda
from itda import durable, weights
from itda.cli import main as frame
from itda.config import (
    AttentionConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    MinimumRiskConfig,
    ModelConfig,
    TeacherForcingConfig,
    TokenizerConfig,
    TrainConfig,
    TransformerConfig,
)
from itda.config.read import override
from itda.errors import DamagedFileError, MachineError, UserError
from itda.run import TIME_FIELDS, RunFolder, read_metrics
from itda.training import checkpoint
from itda.training.entry import complete
from itda.training.loop import UpdateReport, ValidationReport
from itda.training.session import open_session

WORDS = ["dog", "cat", "runs", "sits", "beach", "water", "red", "birds", "near", "sees", "two", "small"]
TINY = ModelConfig(
    embedding_dim=8,
    dropout=0.3,
    encoder=EncoderConfig(dim=8),
    decoder=DecoderConfig(dim=8),
    attention=AttentionConfig(dim=6),
)

TRANSFORMER = replace(
    TINY,
    encoder=EncoderConfig(kind="transformer", dim=8),
    decoder=DecoderConfig(kind="transformer", dim=8),
    transformer=TransformerConfig(num_heads=2, ffn_dim=8, attention_dropout=0.1),
)


def sentences(count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        words = draw.choices(WORDS, k=draw.randint(1, 6))
        yield " ".join(words), " ".join(reversed(words))


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    """A folder of its own for stores, runs and corpora; no pictures, which take longer than these trainings."""
    folder = tmp_path_factory.mktemp("entry")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITDA_CACHE", str(folder / "cache"))
        patch.setattr("itda.training.entry.draw_curve", lambda run: None)
        patch.chdir(folder)
        for name, count, seed in (("train", 60, 1), ("valid", 12, 2)):
            lines = [f"{src}\t{tgt}\n" for src, tgt in sentences(count, seed)]
            Path(f"{name}.tsv").write_text("".join(lines), encoding="utf-8")
        yield folder


def recipe(model=TINY, **train) -> Config:
    """Everything random is on: dropout, coins, subword sampling; and two micro-batches an update."""
    settings = {
        "updates": 20,
        "batch": 4,
        "accumulate": 2,
        "learning_rate": 0.01,
        "validate_every": 5,
        "teacher_forcing": TeacherForcingConfig(ratio=0.5),
    }
    return Config(
        data=DataConfig(train="train.tsv", valid="valid.tsv"),
        tokenizer=TokenizerConfig(vocab_size=300, sampling=0.1),
        model=model,
        train=TrainConfig(**(settings | train)),
    )


def contents(run: Path, *, but: frozenset[str] = frozenset()) -> dict[str, object]:
    """All that a run folder holds, without what a clock said."""
    found: dict[str, object] = {}
    for path in sorted(run.rglob("*")):
        name = path.relative_to(run).as_posix()
        if not path.is_file() or name == "lock" or path.name.startswith("."):
            continue
        if path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_bytes()), but)
        elif path.suffix == ".jsonl":
            found[name] = [timeless(line, but) for line in read_metrics(path)]
        else:
            found[name] = path.read_bytes()
    return found


def timeless(tree, but):
    if isinstance(tree, dict):
        dropped = TIME_FIELDS | but | {"checksum"}  # of a state.json, times included
        return {key: timeless(value, but) for key, value in tree.items() if key not in dropped}
    return [timeless(item, but) for item in tree] if isinstance(tree, list) else tree


def same_folders(one: Path, other: Path, **settings) -> None:
    left, right = contents(one, **settings), contents(other, **settings)
    assert sorted(left) == sorted(right)
    for name in left:
        assert left[name] == right[name], name


def reports_of(found, kind):
    return [report for report in found if isinstance(report, kind)]


# --- resume ------------------------------------------------------------------------------------------------------

PARALLEL = TeacherForcingConfig(ratio=0.5, form="parallel", granularity="sequence")
KINDS = {
    "adam": {},
    "adamw": {"optimizer": "adamw", "weight_decay": 0.1, "teacher_forcing": PARALLEL},
    "tokens": {"batch": 40, "batch_unit": "tokens", "accumulate": 1, "updates": 12, "validate_every": 6},
    "transformer": {"model": TRANSFORMER, "updates": 10},
    "ema": {"ema": 0.95, "average": 2},
    "r_drop": {"r_drop": 2.0, "teacher_forcing": TeacherForcingConfig(), "updates": 6, "validate_every": 3},
    "risk": {
        "objective": "minimum_risk",
        "minimum_risk": MinimumRiskConfig(samples=3, metric="rouge_l", likelihood=0.5),
        "updates": 6,
        "validate_every": 3,
    },
    # Validation worsens before the cut: what is known of that decides the learning rate, and when training ends.
    "worsening": {
        "schedule": "plateau",
        "plateau_patience": 3,
        "patience": 11,
        "learning_rate": 3.0,
        "clip_norm": 0.0,
        "warmup": 0,
        "validate_every": 1,
    },
}


@pytest.fixture(scope="module")
def whole():
    """A training without a pause, by the name of its settings."""
    done = {}

    def train(kind):
        if kind not in done:
            done[kind] = Path(f"whole-{kind}")
            itda.train(recipe(**KINDS[kind]), run=done[kind])
        return done[kind]

    return train


@pytest.mark.parametrize("kind", KINDS)
def test_trained_10_and_resumed_10_is_trained_20(kind, whole, tmp_path):
    """Bit for bit: weights, optimizer, metrics. Only the budget, and the share of it that was used, may differ."""
    full = recipe(**KINDS[kind])
    half = recipe(**(KINDS[kind] | {"updates": full.train.updates // 2}))
    first, second = [], []
    itda.train(half, run=tmp_path / "run", on_report=first.append)
    if kind == "worsening":
        state = checkpoint.latest(tmp_path / "run" / "checkpoints").state
        assert min(state["worse"], state["plateau_worse"]) > 0, "or this test says nothing"
        assert state["plateau_scale"] < 1
    itda.train(full, run=tmp_path / "run", resume=True, on_report=second.append)
    steps = [report.step for report in reports_of(first + second, UpdateReport)]
    assert steps == list(range(1, RunFolder.open(whole(kind)).facts["update"] + 1))
    assert (len(steps) < full.train.updates) == (kind == "worsening")
    same_folders(tmp_path / "run", whole(kind), but=frozenset({"progress", "budget", "stopped"}))


@pytest.mark.parametrize("moments", [[7], [10], [1, 13, 19]], ids=str)
def test_an_interruption_changes_nothing(moments, whole, tmp_path):
    """Ctrl-C in an update, on a validation, and several times: resumed, the folder is that of an uninterrupted run."""
    for number, moment in enumerate([*moments, None]):
        session = open_session(recipe(), tmp_path / "run", resume=number > 0)
        session.interrupted = lambda session=session, moment=moment: session.standing.step == moment
        complete(session, lambda report: None)
        if moment is not None:
            assert session.standing.step == moment
            assert (tmp_path / "run" / "checkpoints" / f"{moment:08d}").is_dir()
            with pytest.raises(UserError, match="training has not ended"):
                itda.load(tmp_path / "run")
    same_folders(tmp_path / "run", whole("adam"))


def test_the_seed_decides(whole, tmp_path):
    """The check on the check: another seed gives other weights, the same gives the same."""
    expected = checkpoint.read(whole("adam") / "checkpoints" / "00000010").weights()
    itda.train(recipe(updates=10), run=tmp_path / "same")
    itda.train(recipe(updates=1, seed=2), run=tmp_path / "other")
    assert equal(weights_of(tmp_path / "same"), expected)
    assert not equal(weights_of(tmp_path / "other"), expected)


def test_what_is_done_stays_as_it_is(whole, tmp_path):
    shutil.copytree(whole("adam"), tmp_path / "run")
    found = []
    itda.train(recipe(), run=tmp_path / "run", resume=True, on_report=found.append)
    assert found == []
    same_folders(tmp_path / "run", whole("adam"))


def test_a_smaller_budget_undoes_nothing(whole, tmp_path):
    shutil.copytree(whole("adam"), tmp_path / "run")
    found = []
    itda.train(recipe(updates=12), run=tmp_path / "run", resume=True, on_report=found.append)
    assert found == []
    assert (tmp_path / "run" / "weights.safetensors").read_bytes() == (
        whole("adam") / "weights.safetensors"
    ).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        "model.dropout=0.1",
        "model.embedding_dim=16",
        "model.attention.dim=8",
        "train.learning_rate=0.02",
        "train.seed=9",
        "train.accumulate=4",
        "data.swap=true",
        "tokenizer.sampling=0.0",
        "train.teacher_forcing.ratio=1.0",
        "train.validate_every=20",
        "model.encoder.bidirectional=false",
    ],
)
def test_a_resume_refuses_another_recipe(change, whole, tmp_path):
    """Also where the changed line stands in another section already: dim = 8."""
    shutil.copytree(whole("adam"), tmp_path / "run")
    before = contents(tmp_path / "run")
    with pytest.raises(UserError, match=r"another recipe.*only the budget may change") as told:
        itda.train(override(recipe(), change), run=tmp_path / "run", resume=True)
    assert f"now {change.partition('=')[0]} = " in str(told.value), "it names what has changed"
    assert contents(tmp_path / "run") == before


def test_a_resume_refuses_other_data(whole, tmp_path, place):
    shutil.copytree(whole("adam"), tmp_path / "run")
    original = (place / "train.tsv").read_bytes()
    try:
        (place / "train.tsv").write_bytes(original + b"more\tdata\n")
        with pytest.raises(UserError, match=r"train\.tsv is not what .* was begun with"):
            itda.train(recipe(updates=30), run=tmp_path / "run", resume=True)
    finally:
        (place / "train.tsv").write_bytes(original)


@pytest.mark.parametrize("cut", [True, False])
def test_a_resume_refuses_an_altered_recipe(cut, whole, tmp_path):
    shutil.copytree(whole("adam"), tmp_path / "run")
    file = tmp_path / "run" / "config.toml"
    text = file.read_text()
    file.write_text(text[: text.index("[decode]")] if cut else text.replace("beam_size = ", "beam_size = 1"))
    for use in (itda.load, lambda run: itda.train(recipe(), run=run, resume=True)):
        with pytest.raises(DamagedFileError, match=r"config\.toml was altered .* put the original back"):
            use(tmp_path / "run")
    file.unlink()
    with pytest.raises(UserError, match=r"config\.toml is missing; copy the whole run folder"):
        itda.load(tmp_path / "run")


def test_a_run_without_a_recipe_says_how_far_it_came(tmp_path):
    RunFolder.create(tmp_path / "run").close()
    with pytest.raises(UserError, match=r"no finished config\.toml: training has not begun \(status new\)"):
        itda.load(tmp_path / "run")


@pytest.mark.parametrize("ended", [True, False])
def test_a_resume_without_its_checkpoints_never_begins_anew(ended, whole, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(whole("adam"), run)
    shutil.rmtree(run / "checkpoints")
    if not ended:
        (run / "weights.safetensors").unlink()
    before = contents(run)
    with pytest.raises(UserError, match="stands at update 20, but its checkpoints are gone"):
        itda.train(recipe(updates=30), run=run, resume=True)
    assert contents(run) == before


MISTAKES = {
    "data": "data.train=typo.tsv",
    "valid": "data.valid=typo.tsv",
    "vocabulary": "tokenizer.vocab_size=20",
    "dim": "model.encoder.dim=9999998",
    "seed": "train.seed=99999999999999999999999",
}


@pytest.mark.parametrize("mistake", MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_costs_no_run_and_leaves_none(mistake, whole, tmp_path):
    """A setting that cannot work is found before the old run goes, and before there is a new one."""
    shutil.copytree(whole("adam"), tmp_path / "run")
    before = contents(tmp_path / "run")
    for words in ({"overwrite": True, "run": tmp_path / "run"}, {"run": tmp_path / "new"}):
        with pytest.raises((UserError, RuntimeError, ValueError)):
            itda.train(recipe(), mistake, **words)
    assert contents(tmp_path / "run") == before
    assert not (tmp_path / "new").exists()


def test_a_missing_tensorboard_costs_no_run(whole, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    shutil.copytree(whole("adam"), tmp_path / "run")
    before = contents(tmp_path / "run")
    assert frame.run(["train", "fit", "--overwrite", "--tensorboard", "--run", str(tmp_path / "run")]) == 2
    assert "--tensorboard needs the package" in capsys.readouterr().err
    assert contents(tmp_path / "run") == before


def test_an_overwritten_run_is_locked_while_its_successor_is_prepared(whole, tmp_path, monkeypatch):
    shutil.copytree(whole("adam"), tmp_path / "run")
    with RunFolder.resume(tmp_path / "run"):
        monkeypatch.setattr("itda.training.session._prepare", lambda *_: pytest.fail("too late"))
        with pytest.raises(UserError, match="another process is training"):
            itda.train(recipe(), run=tmp_path / "run", overwrite=True)


def test_nothing_of_an_overwritten_run_gets_into_its_successor(whole, tmp_path):
    shutil.copytree(whole("adam"), tmp_path / "run")
    other = recipe(updates=2, validate_every=2)
    for run in ("run", "fresh"):
        itda.train(other, run=tmp_path / run, overwrite=True)
    same_folders(tmp_path / "run", tmp_path / "fresh")


def test_a_run_that_never_got_to_work_bars_no_way(tmp_path):
    RunFolder.create(tmp_path / "run").close()
    itda.train(recipe(updates=1), run=tmp_path / "run")
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1]


def test_a_run_that_another_process_began_meanwhile_is_left_alone(tmp_path):
    late = RunFolder.claim(tmp_path / "run")
    with RunFolder.create(tmp_path / "run") as first:
        first.update(status="done")
    with pytest.raises(UserError, match="another process has begun a run"):
        late.begin()
    assert RunFolder.open(tmp_path / "run").facts["status"] == "done"


def test_a_run_is_never_overwritten_unasked(whole, tmp_path):
    shutil.copytree(whole("adam"), tmp_path / "run")
    with pytest.raises(UserError, match="already holds a run"):
        itda.train(recipe(), run=tmp_path / "run")
    itda.train(recipe(updates=1), run=tmp_path / "run", overwrite=True)
    assert checkpoint.steps(tmp_path / "run" / "checkpoints") == [1]


# --- which weights -----------------------------------------------------------------------------------------------


def weights_of(run: Path):
    return weights.read(run / "weights.safetensors")


def equal(left, right):
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


def test_the_best_weights_are_kept(tmp_path):
    """A learning rate far too high: the best validation is not the last, and its weights are the final ones."""
    found = []
    run = tmp_path / "run"
    itda.train(recipe(learning_rate=0.9, keep=1, clip_norm=0.0), run=run, on_report=found.append)
    losses = {report.step: report.metrics["loss"] for report in reports_of(found, ValidationReport)}
    best = min(losses, key=losses.__getitem__)
    assert best != 20, "or this test says nothing"
    facts = json.loads((run / "run.json").read_bytes())
    assert (facts["best"]["update"], facts["best"]["value"]) == (best, losses[best])
    assert facts["final"]["loss"] == pytest.approx(losses[best])
    assert equal(weights_of(run), checkpoint.read(run / "checkpoints" / f"{best:08d}").weights())
    assert checkpoint.steps(run / "checkpoints") == [best, 20], "the best one outlives `keep`"


def test_the_last_checkpoints_are_averaged(tmp_path):
    run = tmp_path / "run"
    itda.train(recipe(average=3, keep=1), run=run)
    assert checkpoint.steps(run / "checkpoints")[-3:] == [10, 15, 20]
    parts = [checkpoint.read(run / "checkpoints" / f"{step:08d}").weights() for step in (10, 15, 20)]
    for name, tensor in weights_of(run).items():
        torch.testing.assert_close(tensor, torch.stack([part[name].double() for part in parts]).mean(0).float())
    facts = json.loads((run / "run.json").read_bytes())
    assert facts["averaged"] == [10, 15, 20]
    assert facts["final"]["loss"] != facts["best"]["value"]


def test_a_trained_model_is_the_one_that_is_loaded(whole):
    run = whole("adam")
    model = itda.load(run)
    texts = [src for src, _ in sentences(5, 3)]
    session = open_session(recipe(), run, resume=True)
    trained = complete(session, lambda report: None)
    assert [one.text for one in trained.generate(texts)] == [one.text for one in model.generate(texts)]
    assert not model.model.training
    assert model.path == run


def test_validation_gives_the_metric_that_is_watched(tmp_path):
    found = []
    itda.train(recipe(updates=2, metric="chrf"), run=tmp_path / "run", on_report=found.append)
    (report,) = reports_of(found, ValidationReport)
    assert {"loss", "perplexity", "token_accuracy", "bleu", "chrf", "exact_match"} == set(report.metrics)
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["kind"] for line in lines] == ["update", "update", "validation"]
    assert [line["step"] for line in lines] == [1, 2, 2]


def test_a_picture_of_the_curve_is_drawn(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("itda.training.entry.draw_curve", lambda run: drawn.append(run.path))
    itda.train(recipe(updates=1), run=tmp_path / "run")
    assert drawn == [tmp_path / "run"]


# --- ways in -----------------------------------------------------------------------------------------------------


def test_overrides_and_budgets_of_a_call(tmp_path):
    found = []
    model = itda.train(
        recipe(), "train.batch=8", "model.dropout=0.0", updates=3, run=tmp_path / "run", on_report=found.append
    )
    assert (model.config.train.batch, model.config.model.dropout, model.config.train.updates) == (8, 0.0, 3)
    assert len(reports_of(found, UpdateReport)) == 3
    epochs = []
    itda.train(recipe(), epochs=1, run=tmp_path / "epochs", on_report=epochs.append)
    assert len(reports_of(epochs, UpdateReport)) == 8, "60 pairs by 4, by 2"
    targets = sum(report.num_targets for report in reports_of(epochs, UpdateReport))
    assert targets >= sum(len(tgt.split()) + 1 for _, tgt in sentences(60, 1))


def test_without_a_name_a_run_is_named_after_its_recipe(place):
    model = itda.train(recipe(updates=1))
    assert model.path == Path("runs") / "run"


def test_training_from_standard_input_is_refused(tmp_path):
    with pytest.raises(UserError, match="more than once"):
        itda.train(recipe(), "data.train=-", run=tmp_path / "run")


def tiny(*more):
    return ["model.embedding_dim=8", "model.encoder.dim=8", "model.decoder.dim=8", "model.attention.dim=8", *more]


def test_fit_takes_a_list_of_pairs(place):
    """The classroom's three lines."""
    found = []
    model = itda.fit(list(sentences(55, 4)), *tiny(), updates=2, on_report=found.append)
    assert model.path == Path("runs") / "fit"
    assert isinstance(model.generate(["dog runs"])[0].text, str)
    assert "loss" in reports_of(found, ValidationReport)[-1].metrics, "every tenth pair was held out"
    facts = json.loads((model.path / "run.json").read_bytes())
    assert (facts["data"]["train"]["pairs"], facts["data"]["valid"]["pairs"]) == (49, 6)
    again = itda.fit(list(sentences(55, 4)), *tiny(), updates=1)
    assert again.path == Path("runs") / "fit-2"


def test_fit_learns_few_pairs_by_heart():
    pairs = [("a", "x"), ("b", "y"), ("c", "z")]
    model = itda.fit(pairs, *tiny("train.learning_rate=0.05", "model.dropout=0.0", "train.warmup=5"), updates=60)
    assert [one.text for one in model.generate([src for src, _ in pairs])] == [tgt for _, tgt in pairs]


def test_fit_validates_on_what_it_is_given():
    found = []
    itda.fit([("a", "b")], *tiny(), valid=[("a", "b"), ("b", "a")], updates=1, on_report=found.append)
    assert set(reports_of(found, ValidationReport)[-1].metrics) >= {"loss", "perplexity"}
    nothing = []
    itda.fit([("a", "b")], *tiny(), updates=1, on_report=nothing.append)
    assert reports_of(nothing, ValidationReport)[-1].metrics == {}, "one pair is too few to hold any out"


@pytest.mark.parametrize("pairs", [[("a", "b")], [(np.ones((3, 2)), np.ones((2, 4)))]], ids=["texts", "vectors"])
def test_fit_names_its_data_by_the_whole_path_and_never_trains_on_an_altered_copy(pairs, tmp_path, monkeypatch):
    """With a relative cache too, or a run would not be resumed from another folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ITDA_CACHE", "cache")
    path = Path(itda.fit(pairs, updates=1, run="one").config.data.train)
    assert path.is_absolute()
    assert path.parent == tmp_path.resolve() / "cache" / "pairs"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + b"x")
    itda.fit(pairs, updates=1, run="two")
    assert path.read_bytes() == whole


def test_fit_takes_tensors_that_carry_a_gradient():
    pairs = [(torch.randn(3, 2, requires_grad=True), torch.randn(2, 4, requires_grad=True)) for _ in range(4)]
    assert itda.fit(pairs, updates=1).config.data.tgt_dim == 4


@pytest.mark.parametrize(
    ("pairs", "message"),
    [
        ([], "no pairs"),
        ([("a\tb", "c")], "'\\\\t'"),
        ([("a", "b\nc")], "'\\\\n'"),
        ([("a", "b\r")], "'\\\\r'"),
        ([("a \ud800", "b")], "half of a character"),
        ([([[1.0], ["x"]], [[1.0]])], "pair 0 is no two arrays"),
        ([("a", "b"), ("a", 3)], "pair 1"),
        ([(np.zeros((2, 3)), np.zeros(4))], r"shape \(length, dim\)"),
        ([(np.zeros((2, 3)), np.zeros((2, 2))), (np.zeros((2, 4)), np.zeros((2, 2)))], r"shape \(length, dim\)"),
        ([(np.full((2, 3), np.nan), np.zeros((2, 2)))], "NaN"),
    ],
)
def test_fit_refuses_what_are_no_pairs(pairs, message):
    with pytest.raises(UserError, match=message):
        itda.fit(pairs, updates=1)


def test_a_damaged_store_is_never_trained_on(whole, tmp_path, monkeypatch):
    """Ids altered without a change of size: the notice says so, and the weights are those of the true data."""
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))
    itda.train(recipe(updates=1), run=tmp_path / "first")
    files = list((tmp_path / "cache" / "stores").glob("*/ids.bin"))
    assert len(files) == 2, "of the training and the validation pairs"
    for file in files:
        data = bytearray(file.read_bytes())
        data[::3] = bytes([5]) * len(data[::3])
        file.write_bytes(data)
    with pytest.warns(UserWarning, match=r"its store in the cache was not whole and is built anew.*ids\.bin") as told:
        itda.train(recipe(), run=tmp_path / "run")
    assert len(told) == 2
    same_folders(tmp_path / "run", whole("adam"))


def test_a_full_disk_in_training_names_the_way_on(tmp_path, monkeypatch):
    session = open_session(recipe(updates=1), tmp_path / "run")

    def refuse(*_):
        raise OSError(errno.ENOSPC, "No space left")

    with monkeypatch.context() as patch:
        patch.setattr(durable.Disk, "write", refuse)
        with pytest.raises(MachineError, match=r"free some space and try again; this training goes on with --resume$"):
            complete(session, lambda report: None)
    itda.train(recipe(updates=1), run=tmp_path / "run", resume=True)


def test_what_is_skipped_is_a_warning(tmp_path):
    """Nobody who trains from Python loses a pair without being told."""
    with pytest.warns(UserWarning, match="blank target: 1 .*2"):
        itda.fit([("a", "b"), ("b", " "), ("c", "a")], *tiny(), updates=1, run=tmp_path / "run")
