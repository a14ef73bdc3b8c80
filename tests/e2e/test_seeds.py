"""`itda train --seeds`, `itda evaluate GROUP`, `itda train --from`: from the command line to the folders."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from program import TINY, Answer

import itda
from itda.text.tokenizer import load_tokenizers
from itda.training import material
from itda.training.session import Session

Cli = Callable[..., Answer]
SEEDS = ("--seeds", 2, "--updates", 3)


@pytest.fixture
def train(cli: Cli, tmp_path: Path) -> Callable[..., Answer]:
    """`itda train` with a toy of a test set."""
    (tmp_path / "test.tsv").write_text("".join(f"{one}\t{one[::-1]}\n" for one in ("abc", "bca", "defg")))
    pairs = tmp_path / "test.tsv"
    settings = (*TINY, "train.validate_every=2", f"data.test={pairs}", f"data.valid={pairs}")

    def call(*words: object) -> Answer:
        return cli("train", "reverse", *settings, "--run", "group", *words)

    return call


def weights(path: Path) -> bytes:
    return (path / "weights.safetensors").read_bytes()


def test_a_group_is_trained_measured_and_compared(train, cli: Cli, tmp_path: Path) -> None:
    answer = train(*SEEDS, "--json")
    assert answer.code == 0, answer.err
    group, said = tmp_path / "group", answer.json
    assert said["seeds"] == [1, 2]
    assert json.loads((group / "evaluation.json").read_bytes()) == {k: v for k, v in said.items() if k != "run"}
    assert str(tmp_path) not in (group / "group.json").read_text()
    for metric in ("bleu", "chrf", "perplexity", "exact_match", "bits_per_character"):
        found = said["test"]["metrics"][metric]
        assert len(found["scores"]) == 2
        assert found["low"] <= found["mean"] <= found["high"]
    finals = [json.loads((group / f"seed-{seed}" / "run.json").read_bytes())["final"]["loss"] for seed in (1, 2)]
    assert said["validation"]["loss"]["mean"] == pytest.approx(sum(finals) / 2)

    assert weights(group / "seed-1") != weights(group / "seed-2")
    prints = {load_tokenizers(group / f"seed-{seed}" / "tokenizer").fingerprint() for seed in (1, 2)}
    assert len(prints) == 1, "the tokenizer is trained once"
    alone = cli("train", group / "seed-2", "--run", "alone")
    assert alone.code == 0, alone.err
    assert weights(tmp_path / "alone") == weights(group / "seed-2"), "each is a full run"

    again = cli("evaluate", group, "--json").json
    assert again["metrics"] == said["test"]["metrics"]
    compared = cli("evaluate", group, "--compare", "alone", "--resamples", 40, "--json").json["compare"]
    assert compared["differences"]["chrf"]["p_welch"] is None
    assert "Owen 2007" in compared["method"]
    table = cli("evaluate", group, "--compare", group, "--resamples", 40).err
    assert "p Welch" in table
    assert "t-interval" in table

    (listed,) = [one for one in cli("runs", ".", "--json").json["runs"] if one["seeds"]]
    assert (listed["run"], listed["status"], listed["best"]["seeds"]) == ("group", "done", 2)
    assert "over 2 seeds" in cli("runs", ".").err
    assert [Path(one["run"]).name for one in cli("runs", group, "--json").json["runs"]] == ["seed-1", "seed-2"]


def test_a_group_goes_on_where_it_stopped(train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted within the second seed, and then grown by a third, it is the group of an uninterrupted training."""
    reports = Session.reports

    def stop(one: Session):
        if one.config.train.seed == 2:
            one.interrupted = lambda: one.standing.step == 1
        return reports(one)

    with monkeypatch.context() as patch:
        patch.setattr(Session, "reports", stop)
        stopped = train(*SEEDS)
    assert stopped.code == 130
    assert "--seeds 2" in stopped.err
    assert "--resume" in stopped.err
    group = tmp_path / "group"
    before = (group / "seed-1" / "weights.safetensors").stat().st_mtime_ns
    refused = train(*SEEDS)
    assert refused.code == 2
    assert "go on with --resume" in refused.err
    assert train("--seeds", 3, "--updates", 3, "--resume").code == 0
    assert (group / "seed-1" / "weights.safetensors").stat().st_mtime_ns == before, "what is done stays"
    resumed = {seed: weights(group / f"seed-{seed}") for seed in (1, 2, 3)}
    assert train(*SEEDS, "--overwrite").code == 0
    assert {seed: weights(group / f"seed-{seed}") for seed in (1, 2)} == {k: v for k, v in resumed.items() if k < 3}
    assert not (group / "seed-3").exists(), "nothing of the older group is left"


def test_what_contradicts_seeds_is_refused(train, tmp_path: Path) -> None:
    for words, said in (
        (("--seeds", "1,1"), "--seeds is 1,1"),
        (("--seeds", 2, "--seed", 3), "--seed is for one run"),
        (("--seeds", 2, "train.freeze=nothing"), "names no parameter"),
    ):
        answer = train(*words)
        assert (answer.code, answer.out) == (2, "")
        assert said in answer.err
        assert not (tmp_path / "group").exists()


def test_train_seeds_from_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    learned = []
    learn = material.learn_sides
    monkeypatch.setattr(material, "learn_sides", lambda *given: learned.append(given[3]) or learn(*given))
    result = itda.train_seeds("reverse", "4,9", *TINY, "data.test=", run=tmp_path / "group", updates=2)
    assert learned == [1], "once for all seeds, with the recipe's own"
    assert result.test is None
    assert result.validation["loss"].mean is not None
    assert [path.name for path in result.group.runs] == ["seed-4", "seed-9"]


def test_a_fine_tuned_model_writes_its_new_words(cli: Cli, tmp_path: Path) -> None:
    """The parent knows neither 한 nor 국; after a short training on new pairs the child reverses words with them."""
    draw = random.Random(1)

    def pairs(marks: str, count: int) -> str:
        words = ["".join(draw.choices(marks, k=draw.randint(1, 3))) for _ in range(count)]
        return "".join(f"{word}\t{word[::-1]}\n" for word in words)

    (tmp_path / "old.tsv").write_text(pairs("abcd", 300))
    (tmp_path / "new.tsv").write_text(pairs("abcd한국", 300), encoding="utf-8")
    (tmp_path / "tuned.toml").write_text(
        'name = "tuned"\ndata.train = "new.tsv"\n[tokenizer]\nadded_from_data = 10\n[train]\nupdates = 150\n'
        "learning_rate = 0.01\nbatch = 32\nvalidate_every = 150\n"
    )
    sizes = [one.replace("16", "32") for one in TINY if "dim" in one]
    parent = cli(
        "train", "fit", *sizes, "data.train=old.tsv", "model.dropout=0", "train.learning_rate=0.01",
        "train.validate_every=150", "--updates", 150, "--run", "parent",
    )  # fmt: skip
    assert parent.code == 0, parent.err
    said = cli("train", "tuned.toml", "--from", "parent", "--run", "child")
    assert said.code == 0, said.err
    assert "the vocabulary grows from 8 to 10 entries" in said.err
    shutil.rmtree(tmp_path / "parent")
    model = itda.load("child")
    texts = ["한", "a국", "국b한", "abc"]
    assert [one.text for one in model.generate(texts)] == [text[::-1] for text in texts]
    wrong = cli("train", "tuned.toml", "--from", "child", "model.encoder.dim=256", "--run", "other")
    assert wrong.code == 2
    assert "model.encoder.dim is 32 in child, 256 in the recipe" in wrong.err
