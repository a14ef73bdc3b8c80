"""Races: what is compared, how a ratio is taken, what a peer prints, and the table that is made of it all."""

import importlib
import json
from pathlib import Path

import pytest
import torch

from itda.nn import product

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def benchmark(monkeypatch):
    """Load a script of benchmarks/ as it loads its neighbours: from that folder."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


def ran(seconds, tokens=(100, 100, 100), memory=2**20, others=0.0):
    return {"seconds": list(seconds), "tokens": list(tokens), "peak_memory": memory, "others": others}


def test_a_ratio_is_taken_within_a_round(benchmark):
    turns = benchmark("race.turns")
    ours = [ran([1, 1, 1]), ran([4, 4, 4]), ran([1, 1, 1]), None]
    theirs = [ran([2, 2, 2]), ran([8, 8, 8]), ran([3, 3, 3]), ran([1, 1, 1])]
    assert turns.ratios(ours, theirs) == {"median": 2.0, "min": 2.0, "max": 3.0, "rounds": 3}
    assert turns.ratios(ours, [None] * 4) is None


def test_one_stall_of_the_machine_does_not_decide(benchmark):
    turns = benchmark("race.turns")
    assert turns.speed(ran([1, 1, 60])) == turns.speed(ran([1, 1, 1])) == 100
    assert turns.speed({"seconds": [2.0], "sentences": 50, "tokens": [1000]}) == 25


def test_sides_take_turns_and_slow_or_failing_peers_drop_out(benchmark):
    turns = benchmark("race.turns")
    seconds, order = {"itda": 1, "quick": 2, "slow": 20}, []

    def run(name):
        order.append(name)
        if name == "broken":
            raise turns.SideFailed("broken ended with status 1: no word")
        return ran([seconds[name]] * 3)

    results, failed = turns.take_turns(["itda", "quick", "slow", "broken"], 3, run, lambda line: None)
    assert order == ["itda", "quick", "slow", "broken", "quick", "itda", "itda", "quick"]
    assert failed == {"broken": "broken ended with status 1: no word"}
    assert [run is not None for run in results["slow"]] == [True, False, False]
    assert turns.ratios(results["itda"], results["slow"])["median"] == 20


def test_a_disturbed_run_is_taken_again(benchmark, monkeypatch):
    turns = benchmark("race.turns")
    answers = [ran([9, 9, 9], others=0.5), ran([1, 1, 1], others=0.01), ran([1, 1, 1])]
    monkeypatch.setattr(turns.Side, "_run", lambda self, job, threads: answers.pop(0))
    assert turns.Side("x", Path("python"), {}).run({}, 2)["seconds"] == [1, 1, 1]
    assert len(answers) == 1


def test_others_are_what_this_process_did_not_do(benchmark):
    child = benchmark("race.child")
    assert child.others_share((0.0, 10.0, 1.0), (2.0, 13.0, 3.0), 2) == pytest.approx(0.25)
    assert child.others_share((0.0, 0.0, 1.0), (2.0, 0.0, 3.0), 2) is None


def test_the_rates_that_peers_print(benchmark):
    commands = benchmark("race.commands")
    line = (
        "[2026-01-01 10:00:00,000 INFO] Step {}/ 12; acc: 10.1; ppl: 2.1; xent: 7.6; lr: 0.00100; "
        "sents:     512; bsz: 3571/3644/256; 2101/{} tok/s;     15 sec;\n"
    )
    log = "".join(line.format(step, rate) for step, rate in ((2, 900), (4, 1500), (6, 2219), (8, 2262), (10, 2100)))
    assert commands.opennmt_rates(log) == [900, 1500, 2219, 2262, 2100]
    assert commands.own_rate(commands.opennmt_rates(log)) == 2219
    line = "INFO - joeynmt.training - Epoch   1, Step:      {}, Batch Loss:     7.1, Batch Acc: 0.01, Tokens per Sec:      {}, Lr: 0.001000\n"  # noqa: E501
    assert commands.joeynmt_rates(line.format(2, 926) + line.format(4, 915.5)) == [926, 915.5]
    with pytest.raises(benchmark("race.turns").SideFailed, match="printed 1 rates"):
        commands.own_rate([5.0])


def test_products_are_counted_forward_and_backward(benchmark):
    limit = benchmark("race.limit")
    weight = torch.nn.Parameter(torch.randn(5, 4))
    with limit.Products(enabled=True) as products:
        products.keep = True
        hidden = torch.randn(3, 4) @ weight.t()
        torch.mm(torch.randn(2, 3), hidden.detach(), out=torch.empty(2, 5))
        hidden.sum().backward()
    shapes = sorted((p.rows, p.inner, p.columns) for p in products.counts.elements())
    assert shapes in ([(2, 3, 5), (3, 4, 5), (5, 3, 4)], [(2, 3, 5), (3, 4, 5), (4, 3, 5)])
    found = products.limit()
    assert found["operations"] == 2 * (2 * 3 * 5 + 2 * 3 * 4 * 5)
    assert found["limit_seconds"] > 0


def test_products_are_counted_in_inference_mode_too(benchmark):
    limit = benchmark("race.limit")
    layer, lstm = torch.nn.Linear(4, 5), torch.nn.LSTM(4, 6)
    with torch.inference_mode(), limit.Products(enabled=True) as products:
        products.keep = True
        layer(torch.randn(3, 4))
        assert [(p.rows, p.inner, p.columns) for p in products.counts.elements()] == [(3, 4, 5)]
        products.counts.clear()
        lstm(torch.randn(2, 3, 4))
        torch.nn.functional.scaled_dot_product_attention(*(torch.randn(1, 2, 3, 4) for _ in range(3)))
    operations = sum(product.operations for product in products.counts.elements())
    assert operations == 2 * 24 * (2 * 3 * 4 + 2 * 3 * 6) + 2 * 2 * (3 * 4 * 3 + 3 * 3 * 4)


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this build of torch has no oneDNN")
def test_products_of_the_other_library_are_counted(benchmark):
    limit = benchmark("race.limit")
    with torch.inference_mode(), limit.Products(enabled=True) as products:
        products.keep = True
        product.product(torch.randn(2, 3, 4), torch.randn(5, 4))
    assert [(p.rows, p.inner, p.columns) for p in products.counts.elements()] == [(6, 4, 5)]


def test_what_is_not_asked_for_is_not_counted(benchmark):
    limit = benchmark("race.limit")
    with limit.Products(enabled=False) as products:
        products.keep = True
        torch.randn(3, 4) @ torch.randn(4, 5)
    assert not products.counts
    assert products.limit() == {}


def test_rows_are_chosen_by_the_beginning_of_their_names(benchmark):
    rows = benchmark("race.rows")
    assert [row.name for row in rows.chosen(["train-rnn-256"])] == ["train-rnn-256-additive", "train-rnn-256-general"]
    assert len(rows.chosen([])) == len(rows.ROWS) == len({row.name for row in rows.ROWS})
    with pytest.raises(ValueError, match="there is no row train-rn1; the rows are: train-rnn"):
        rows.chosen(["train-rn1"])


def test_every_peer_of_a_row_is_known(benchmark):
    rows, environments = benchmark("race.rows"), benchmark("race.environments")
    names = {name for row in rows.ROWS for name in (*row.peers, *row.same_model)}
    assert names - set(environments.RECIPES) == {"classroom"}
    assert all((ROOT / "benchmarks" / "race" / "sides" / f"{name}.py").is_file() for name in names)
    assert names <= set(benchmark("race.standing").NAMES)


def test_a_peer_that_cannot_be_installed_says_why(benchmark, tmp_path, monkeypatch):
    environments = benchmark("race.environments")
    recipe = environments.Recipe(calls=(("--no-index", "a-package-that-is-nowhere"),))
    monkeypatch.setitem(environments.RECIPES, "x", recipe)
    monkeypatch.setattr(environments, "_run", refuse := fail_at_pip(environments))
    with pytest.raises(environments.NotInstalled, match="x could not be installed"):
        environments.install("x", tmp_path)
    assert refuse.asked[0][1:3] == ["-m", "venv"]
    assert not (tmp_path / "x.done").exists()


def fail_at_pip(environments):
    class Refuse:
        asked = []

        def __call__(self, command, log, peer, file):
            self.asked.append(command)
            if "pip" in command:
                raise environments.NotInstalled(f"{peer} could not be installed ({command[-1]})")

    return Refuse()


def test_repairs_need_the_release_that_they_are_for(benchmark, tmp_path):
    environments = benchmark("race.environments")
    (tmp_path / "a.py").write_text("x = dict(verbose=False, y=1)\n", encoding="utf-8")
    recipe = environments.Recipe((), stubs=("spacy",), repairs=(environments.Repair("a.py", "verbose=False, ", ""),))
    environments._mend(recipe, tmp_path, "peer")
    assert (tmp_path / "a.py").read_text(encoding="utf-8") == "x = dict(y=1)\n"
    assert (tmp_path / "spacy.py").exists()
    with pytest.raises(environments.NotInstalled, match="another release"):
        environments._mend(recipe, tmp_path, "peer")


def test_a_changed_recipe_is_another_environment(benchmark):
    recipe = benchmark("race.environments").Recipe
    assert recipe((("a",),)).key() != recipe((("b",),)).key()
    assert recipe((("a",),)).key() == recipe((("a",),)).key()


def record(row="train-x", place=0, **more):
    sides = {
        "itda": {"speed": 300.0, "peak_memory_mib": 700.0},
        "opennmt": {"speed": 100.0, "peak_memory_mib": 1200.0},
        "joeynmt": {"speed": 150.0, "peak_memory_mib": 1400.0},
        "ctranslate2": {"speed": 400.0, "peak_memory_mib": 90.0},
    }
    return {
        "kind": "speed",
        "row": row,
        "place": place,
        "title": "training, x",
        "unit": "target tokens/s",
        "bar": 1.8,
        "same_bar": 0.9,
        "same_model": ["ctranslate2"],
        "sides": sides,
        "ratios": {
            "opennmt": {"median": 3.0, "min": 2.9, "max": 3.1, "rounds": 3},
            "joeynmt": {"median": 2.0, "min": 1.9, "max": 2.1, "rounds": 3},
            "ctranslate2": {"median": 0.75, "min": 0.7, "max": 0.8, "rounds": 3},
        },
        "limit": {"share": 0.62},
        "missing": {"huggingface": "not installed"},
    } | more


def test_the_fastest_peer_and_the_same_weights_are_lines_of_their_own(benchmark):
    against_peers, against_same = benchmark("race.standing").standings(record())
    assert (against_peers.peer, against_peers.ratio, against_peers.cleared) == ("joeynmt", 2.0, True)
    assert against_peers.leanest == 1200
    assert (against_same.peer, against_same.bar, against_same.cleared) == ("ctranslate2", 0.9, False)


def test_a_peers_own_command_line_counts_where_it_is_quicker(benchmark):
    found = record(own_commands={"joeynmt": {"speed": 200.0}, "opennmt": {"speed": None, "failed": "why"}})
    standing = benchmark("race.standing").standings(found)[0]
    assert (standing.theirs, standing.ratio, standing.cleared) == (200.0, pytest.approx(1.5), False)


def test_the_table_of_speed(benchmark):
    table = benchmark("speed_table")
    startup = {
        "kind": "speed",
        "row": "startup",
        "place": 99,
        "commands": {"import itda": {"median": 0.21, "bar": 0.3, "peak_memory_mib": 40.0}},
    }
    text = table.render([startup, record()], table.WORDS["README.md"])
    lines = text.splitlines()
    assert lines[2] == (
        "| training, x | 300 target tokens/s | JoeyNMT 150 | 2.00 [1.90, 2.10] | 1.8 ✓ | 62% | 700, 1,200 |"
    )
    assert lines[3].startswith("| training, x | 300 target tokens/s | CTranslate2 400 | 0.75 [0.70, 0.80] | 0.9 |")
    assert lines[4] == "| `import itda` | 0.21 seconds |  |  | 0.3 ✓ |  | 40 |"
    assert "Not raced: training, x: transformers (not installed)." in text
    assert "|  | 62% |" in table.render([record(bar=0.0)], table.WORDS["README.md"])
    assert table.render([], table.WORDS["README.ko.md"]) == ""
    assert table.render([record()], table.WORDS["README.ko.md"]).startswith("| 작업 |")


def test_the_table_of_speed_stands_between_its_marks(benchmark, tmp_path):
    table = benchmark("table")
    plain = "# x\n"
    assert table.with_speed(plain, [], "README.md") == plain
    with pytest.raises(table.TableError, match="speed:start"):
        table.with_speed(plain, [record()], "README.md")
    marked = "# x\n<!-- speed:start -->\nold\n<!-- speed:end -->\nrest\n"
    assert "JoeyNMT 150" in table.with_speed(marked, [record()], "README.md")
    assert "old" not in table.with_speed(marked, [], "README.md")


def test_other_files_beside_the_results_are_left_alone(benchmark, tmp_path):
    (tmp_path / "speed-a.json").write_text(json.dumps(record()), encoding="utf-8")
    (tmp_path / "speed-b.json").write_text("{}", encoding="utf-8")
    assert len(benchmark("race.standing").read_results(tmp_path)) == 1


def test_the_picture_of_all_races(benchmark, tmp_path):
    path = benchmark("race.picture").draw([record(), record("train-y", 1)], tmp_path / "speed.png")
    assert path.stat().st_size > 5000


def test_how_fast_something_grows(benchmark):
    growth = benchmark("growth")
    points = [{"value": n, "seconds": n**2, "peak_memory": 50 + n, "start_memory": 50} for n in (1, 10, 100)]
    assert growth.exponent(points, "seconds") == 2.0
    assert growth.exponent(points, "peak_memory", "start_memory") == 1.0
    assert growth.exponent(points[:1], "seconds") is None
    assert [growth.short(value) for value in (50, 1000, 64_000, 1_000_000, 1500)] == ["50", "1k", "64k", "1M", "1500"]


def test_the_picture_of_growth(benchmark, tmp_path):
    growth = benchmark("growth")
    points = [{"value": n, "seconds": n / 100, "peak_memory": n << 20, "start_memory": 0} for n in (1, 10, 50)]
    found = {"beam": {line: {"points": points} for line in growth.MODELS}}
    assert growth.draw({"axes": found}, tmp_path / "growth.png").stat().st_size > 5000


def test_ids_go_to_every_side_as_they_are(benchmark, tmp_path):
    child, prepared = benchmark("race.child"), benchmark("race.prepared")
    made = prepared.Prepared(tmp_path, 20, [[4, 5], [6], [7, 8, 9]], [[10], [11, 12], [13]], [[4], [5, 6]])
    batches = child.read_batches(str(made.batches(2, "sentences", 3)))
    assert [batch.num_targets for batch in batches][:2] in ([5, 2], [2, 5], [4, 3], [3, 4])
    assert all((batch.tgt[:, 0] == child.BOS).all() and (batch.src.max(1) >= 4).all() for batch in batches)
    drawn = child.read_batches(str(made.drawn(2, 3)))
    assert [batch.src.shape[0] for batch in drawn] == [2, 2, 2], "over and over, where the corpus has no more"
    assert child.read_sources(str(made.sources())) == [[4, 3], [5, 6, 3]]
    assert list(child.by_length([[1, 1], [1], [1, 1, 1]], [0, 1, 2], 2)) == [[1, 0], [2]]


def test_the_better_batch_size_counts(benchmark, monkeypatch):
    child = benchmark("race.child")
    clock, now = [], [0.0]
    monkeypatch.setattr(child.time, "perf_counter", lambda: now[0])

    def decode(places, size):
        clock.append((len(places), size))
        now[0] += 1.0 if size == 8 else 2.0
        return [[4, 3]] * len(places)

    found = child.decoded([[4, 3]] * 10, {"batches": [2, 8], "passes": 3}, decode)
    assert clock == [(2, 2), (10, 2), (10, 8), (10, 8), (10, 8)]
    assert (found["best_batch"], found["seconds"], found["sentences"], found["tokens"]) == (8, [1.0], 10, [20])


def point(engine, speed, bleu):
    return {"engine": engine, "name": f"{engine} {speed}", "run": "r", "way": "fp32", "beam_size": 5,
            "bleu": bleu, "sentences_per_second": speed}  # fmt: skip


def test_equal_bleu_is_ours_quickest_that_is_no_worse(benchmark, tmp_path):
    serving = benchmark("serving")
    points = [
        point("itda", 900, 37.0),
        point("itda", 400, 39.0),
        point("itda", 300, 40.0),
        point("CTranslate2", 200, 38.5),
    ]
    points.append(point("CTranslate2", 100, 41.0))
    assert serving.at_equal_bleu(points) == [
        {"theirs": "CTranslate2 200", "ours": "itda 400", "ratio": 2.0},
        {"theirs": "CTranslate2 100", "ours": None, "ratio": None},
    ]
    assert serving.draw(points, tmp_path / "serving.png").stat().st_size > 5000
