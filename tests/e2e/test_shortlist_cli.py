"""`itda shortlist`, and `itda generate --shortlist` and `--int8`, on a run that knows nothing."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from program import Answer

import itda
from itda.nn.rounded import weight_limit

Cli = Callable[..., Answer]
LINES = b"abc\nhgf\n\nbad\n"


@pytest.fixture
def run(tiny_run: Path, tmp_path: Path) -> Path:
    """A run of this test alone: making a shortlist writes into it."""
    return Path(shutil.copytree(tiny_run, tmp_path / "run"))


def test_a_shortlist_is_made_used_and_guarded(cli: Cli, run: Path) -> None:
    greedy = ("generate", run, "--beam", 1)
    whole = cli(*greedy, stdin=LINES)
    refused = cli(*greedy, "--shortlist", "on", stdin=LINES)
    assert refused.code == 2
    assert f"itda shortlist {run}" in refused.err
    made = cli("shortlist", run, "--frequent", 3, "--per-token", 2, "--per-sentence", 4, "--json")
    assert made.code == 0, made.err
    assert made.lines[0]["frequent"] == 3
    facts = json.loads((run / "run.json").read_text(encoding="utf-8"))
    assert facts["shortlist"]["per_sentence"] == 4
    assert "shortlist.safetensors" in facts["checksums"]
    few = cli(*greedy, "--shortlist", "on", stdin=LINES)
    assert few.code == 0, few.err
    assert few.out.count("\n") == 4
    assert cli(*greedy, "--shortlist", "on", "--batch", 1, stdin=LINES).out == few.out
    assert cli(*greedy, "--shortlist", "certified", stdin=LINES).out == whole.out
    refused = cli("generate", run, "--beam", 2, "--shortlist", "certified", stdin=LINES)
    assert refused.code == 2
    assert "beam_size is 2" in refused.err
    again = (run / "shortlist.safetensors").read_bytes()
    itda_again = cli("shortlist", run, "--frequent", 3, "--per-token", 2, "--per-sentence", 4)
    assert itda_again.code == 0
    assert (run / "shortlist.safetensors").read_bytes() == again
    (run / "shortlist.safetensors").write_bytes(again[:-1] + bytes([again[-1] ^ 1]))
    damaged = cli(*greedy, "--shortlist", "on", stdin=LINES)
    assert damaged.code != 0
    assert "shortlist.safetensors" in damaged.err


def test_a_shortlist_needs_text(cli: Cli, vector_run: Path) -> None:
    refused = cli("shortlist", vector_run)
    assert refused.code == 2
    assert "vectors" in refused.err


@pytest.mark.skipif(not weight_limit(), reason="this CPU has no exact int8 product")
def test_int8_writes_what_it_writes_alone(cli: Cli, run: Path) -> None:
    out = cli("generate", run, "--int8", stdin=LINES)
    assert out.code == 0, out.err
    assert cli("generate", run, "--int8", "--batch", 1, stdin=LINES).out == out.out
    assert itda.load(run, int8=True).generate(["abc"])[0].text == out.out.splitlines()[0]
