"""Results are whole and say where they come from; the README's table is made of them and of nothing else."""

import importlib
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).resolve().parents[2]
TRAIN = [("a dog runs", "ein Hund läuft"), ("two men sit", "zwei Männer sitzen")]
TEST = [("a dog runs fast", "ein Hund läuft schnell"), ("two men sit here", "zwei Männer sitzen hier")] * 20


@pytest.fixture
def benchmark(monkeypatch):
    """Load a script of benchmarks/ as it loads its neighbours: from that folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


class Perfect:
    def generate(self, texts, *, beam_size):
        assert beam_size == 3
        return [SimpleNamespace(text=dict(TEST)[text]) for text in texts]

    def score(self, pairs):
        return [SimpleNamespace(nll=1.0, tokens=5, correct=5) for _ in pairs]


def test_measures_model_and_baselines(benchmark):
    found = benchmark("quality").measure(Perfect(), TEST, TRAIN, beam_size=3, seed=1)
    assert found.evaluation["chrf"]["score"] == 100.0
    assert found.baselines["copy"]["chrf"]["score"] < found.baselines["nearest"]["chrf"]["score"] < 100.0
    assert found.against["nearest"]["differences"]["chrf"]["better"] == "a"
    json.dumps([found.evaluation, found.baselines, found.against], allow_nan=False)
    assert set(benchmark("quality").measure(Perfect(), TEST, [], beam_size=3, seed=1).baselines) == {"copy"}


@pytest.mark.parametrize(
    ("corpus", "name"),
    [
        ("multi30k_en_de/test", "multi30k_en_de/test"),
        ("/home/me/data/multi30k_en_de/test.tsv.gz", "multi30k_en_de/test"),
        ("C:\\data\\de\\test.tsv", "de/test"),
        ("/home/me/a/test.en,/home/me/a/test.de", "a/test.en,a/test.de"),
        ("make:dates/test", "make:dates/test"),
        ("/test.tsv", "test"),
    ],
)
def test_a_result_names_no_folder_of_the_machine(benchmark, corpus, name):
    assert benchmark("quality").public_name(corpus) == name


def test_a_result_says_where_it_was_taken(benchmark):
    found = benchmark("machine").circumstances()
    assert set(found) == {"commit", "dirty", "machine", "date"}
    assert found["machine"]["cores"] >= 1
    assert found["machine"]["cpu"]
    assert benchmark("machine").cpu_model("processor\t: 0\nmodel name\t: AMD  EPYC\n") == "AMD EPYC"


def record(task="multi30k_en_de/test", run="rnn", score=37.25, minutes=28.6):
    def value(number):
        signature = "nrefs:1|case:mixed"
        return {"score": number, "low": number - 1, "high": number + 1, "signature": signature}

    def evaluation(number, bits):
        return {
            "bleu": value(number),
            "chrf": value(number + 20),
            "exact_match": value(0.05) | {"low": 0.04, "high": 0.06},
            "bits_per_character": bits,
            "main": "bleu",
        }

    return {
        "task": task,
        "run": run,
        "training": {"minutes": minutes, "threads": 2},
        "evaluation": evaluation(score, value(1.5)),
        "baselines": {"copy": evaluation(2.0, None)},
        "machine": {"cpu": "AMD EPYC", "gpu": None, "cores": 2, "torch": "2.13.0"},
    }


@pytest.fixture
def repository(tmp_path):
    results = tmp_path / "benchmarks" / "results"
    results.mkdir(parents=True)
    for number, each in enumerate([record(run="weak", score=20.0), record(), record(task="a/test", minutes=None)]):
        (results / f"quality-{number}.json").write_text(json.dumps(each), encoding="utf-8")
    (results / "speed-x.json").write_text("{}", encoding="utf-8")
    for name in ("README.md", "README.ko.md"):
        text = "# 잇다\n\n<!-- results:start -->\nold\n<!-- results:end -->\n\nrest\n"
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


def test_table_is_written_and_checked(benchmark, repository, capsys):
    table = benchmark("table")
    root = ["--root", str(repository)]
    assert table.main([*root, "--check"]) == 1
    assert "README.ko.md differs" in capsys.readouterr().err
    assert table.main(root) == 0
    assert table.main([*root, "--check"]) == 0
    text = (repository / "README.md").read_text(encoding="utf-8")
    assert text.startswith("# 잇다\n\n<!-- results:start -->\n| Task |")
    assert text.endswith("<!-- results:end -->\n\nrest\n")
    assert "old" not in text
    rows = [line for line in text.split("\n") if line.startswith("|")][2:]
    assert [row.split(" | ")[:3] for row in rows] == [
        ["| a/test", "rnn", ""],
        ["| a/test", "*copy the source*", ""],
        ["| multi30k_en_de/test", "rnn", "29 × 2"],
        ["| multi30k_en_de/test", "weak", "29 × 2"],
        ["| multi30k_en_de/test", "*copy the source*", ""],
    ]
    assert "37.2 [36.2, 38.2] | 57.2 [56.2, 58.2] | 5.0 [4.0, 6.0] | 1.50 [0.50, 2.50] |" in rows[2]
    assert "원문 복사" in (repository / "README.ko.md").read_text(encoding="utf-8")


def test_check_sees_a_changed_figure(benchmark, repository):
    table = benchmark("table")
    root = ["--root", str(repository)]
    assert table.main(root) == 0
    readme = repository / "README.md"
    readme.write_text(readme.read_text(encoding="utf-8").replace("37.2 [", "39.2 ["), encoding="utf-8")
    assert table.main([*root, "--check"]) == 1


def test_missing_marks_are_named(benchmark, repository, capsys):
    (repository / "README.ko.md").write_text("# no table\n", encoding="utf-8")
    assert benchmark("table").main(["--root", str(repository)]) == 2
    assert "README.ko.md must hold the line <!-- results:start -->" in capsys.readouterr().err


def test_no_results_yet(benchmark):
    table = benchmark("table")
    assert table.render([], table.WORDS["README.md"]) == "No results yet.\n"
