"""Workers: what they do is what one does, their errors are the caller's, and none outlives its crew."""

import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
import warnings

import pytest
import torch

from itda.build import build_model
from itda.config import Config, DataConfig, DecodeConfig, DecoderConfig, EncoderConfig, ModelConfig, TokenizerConfig
from itda.data.lexicon import learn
from itda.decode.crew import Crew, count_workers
from itda.decode.packing import pack
from itda.errors import ItdaError, UserError
from itda.nn.int8 import round_model
from itda.nn.rounded import weight_limit
from itda.seq2seq import Seq2Seq
from itda.text.tokenizer import train_tokenizers

CPU = torch.device("cpu")
WORDS = ["a", "dog", "cat", "runs", "sits", "on", "the", "red", "beach", "and", "sees", "two", "birds"]
TEXTS = [" ".join(random.Random(seed).choices(WORDS, k=seed % 9 + 1)) for seed in range(60)]
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="workers are forked, which only Linux does well"
)


def children() -> set[int]:
    return {process.pid for process in multiprocessing.active_children()}


def square(number: int) -> int:
    time.sleep(0.02 * (number % 3))  # some are done before those in front of them
    return number * number


def refuse(number: int) -> int:
    if number == 3:
        raise UserError("three is no number")
    return number


def unspeakable(number: int) -> int:
    class Inner(Exception):
        pass

    raise Inner("cannot travel")


def die(number: int) -> int:
    if number == 2:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


@linux
@pytest.mark.parametrize("workers", [1, 2, 5])
def test_all_parts_are_done_once(workers):
    with Crew(square, workers) as crew:
        for size in (7, 1, 0, 12):
            assert sorted(crew.do(range(size))) == [(number, number * number) for number in range(size)]
    assert not children()


@linux
def test_each_worker_has_one_thread_and_the_parent_keeps_its_own():
    before = torch.get_num_threads()
    with Crew(lambda number: (os.getpid(), torch.get_num_threads()), 2) as crew:
        answers = dict(crew.do(range(8)))
    assert {threads for _, threads in answers.values()} == {1}
    assert os.getpid() not in {pid for pid, _ in answers.values()}
    assert torch.get_num_threads() == before


@linux
@pytest.mark.parametrize(
    ("work", "kind", "words"),
    [(refuse, UserError, "three is no number"), (unspeakable, ItdaError, "cannot travel"), (die, ItdaError, "memory")],
)
def test_an_error_of_a_worker_is_raised_here_and_ends_them_all(work, kind, words):
    with pytest.raises(kind, match=words), Crew(work, 2) as crew:
        list(crew.do(range(20)))
    assert not children()


@linux
def test_an_error_of_the_caller_ends_them_at_once():
    start = time.monotonic()
    crew = Crew(lambda number: time.sleep(60 * number), 2)

    def interrupted():
        with crew:
            for _ in crew.do(range(4)):
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert time.monotonic() - start < 10
    assert not children()


SLEEPERS = """
import os, signal, threading, time
from itda.decode.crew import Crew
def work(number):
    os.write(1, b"%d\\n" % os.getpid())
    time.sleep(60)
with Crew(work, 2) as crew:
    list(crew.do(range(2)))
"""


@linux
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(how):
    """Ctrl-C reaches the whole group, SIGKILL the parent alone; a sleeper wakes up, or hears that nobody is there."""
    program = SLEEPERS.replace("60", "60" if how == signal.SIGINT else "2")
    with subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        pids = [int(parent.stdout.readline()) for _ in range(2)]
        if how == signal.SIGINT:
            os.killpg(parent.pid, how)
        else:
            os.kill(parent.pid, how)
        errors = parent.communicate(timeout=30)[1]
    assert errors.count("Traceback") <= 1, "a worker leaves Ctrl-C to its parent"
    until = time.monotonic() + 20
    while time.monotonic() < until and any(os.path.exists(f"/proc/{pid}") for pid in pids):
        time.sleep(0.1)
    assert not any(os.path.exists(f"/proc/{pid}") for pid in pids)


def test_who_may_be_hired():
    assert count_workers(3, CPU) == (3 if sys.platform.startswith("linux") else 1)
    assert count_workers(None, CPU) in (1, torch.get_num_threads())
    assert count_workers(None, torch.device("cuda")) == 1
    with pytest.raises(UserError, match="workers is 2, but the device is cuda"):
        count_workers(2, torch.device("cuda"))


def make(kind: str) -> Seq2Seq:
    config = Config(
        data=DataConfig(train="-"),
        tokenizer=TokenizerConfig(kind="words", vocab_size=60),
        model=ModelConfig(embedding_dim=8, encoder=EncoderConfig(dim=8), decoder=DecoderConfig(kind=kind, dim=8)),
        decode=DecodeConfig(beam_size=3),
    )
    tokenizers = train_tokenizers(config.tokenizer, lambda: iter(zip(TEXTS, reversed(TEXTS), strict=True)), 1)
    torch.manual_seed(0)
    model = build_model(config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.0)
    return Seq2Seq(config, model, tokenizers)


@linux
@pytest.mark.parametrize("kind", ["luong", "transformer"])
def test_workers_write_what_one_writes(kind):
    """In order, chunk after chunk, with lists of wishes, and blank texts between."""
    model, texts = make(kind), [*TEXTS[:20], "", *TEXTS[20:]]
    asked = {"batch_size": 4, "must": [["zoo"] if number % 5 == 0 else [] for number in range(len(texts))]}
    alone = list(model.generate_lazily(texts, workers=1, chunk=25, **asked))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        shared = list(model.generate_lazily(iter(texts), workers=2, chunk=25, **asked))
    assert [(one.text, one.tokens, one.alignment) for one in shared] == [
        (one.text, one.tokens, one.alignment) for one in alone
    ]
    assert [one.score for one in shared] == pytest.approx([one.score for one in alone], abs=1e-9)
    assert not children()


@linux
@pytest.mark.parametrize("way", ["on", "certified", "int8"])
def test_workers_have_what_their_batches_share(way):
    """The shortlist, the screen and the rounded maps are made before anyone is hired."""
    if way != "on" and not weight_limit():
        pytest.skip("this CPU has no exact int8 product")
    model = make("luong")
    ids = [model.tokenizers.src.encode(text) for text in TEXTS]
    sizes = model.tokenizers.sizes()[:2]
    model.lexicon = learn(lambda: iter(zip(ids, ids, strict=True)), *sizes, frequent=2, per_token=2, per_sentence=3)
    if way == "int8":
        round_model(model.model, smallest=0)
    asked = {"beam_size": 1, "shortlist": "off" if way == "int8" else way, "batch_size": 4}
    alone, shared = (list(model.generate_lazily(TEXTS, workers=workers, chunk=30, **asked)) for workers in (1, 2))
    assert [one.tokens for one in shared] == [one.tokens for one in alone]
    writer = model._writer(1, {"beam_size": 1, "shortlist": asked["shortlist"]})
    writer.write([], writer.crew(1))
    assert {"on": "shortlist", "certified": "screen", "int8": "engine"}[way] in vars(writer)


@linux
def test_a_reader_who_stops_early_leaves_no_worker():
    found = make("luong").generate_lazily(TEXTS, workers=2, batch_size=4, chunk=30)
    assert next(found).text
    assert len(children()) == 2
    found.close()
    assert not children()


def test_without_attention_nothing_else_differs():
    model = make("transformer")
    with_it, without = model.generate(TEXTS[:9]), model.generate(TEXTS[:9], attention=False)
    assert [one.tokens for one in without] == [one.tokens for one in with_it]
    assert all(one.attention is None and not one.alignment for one in without)
    assert all(one.attention is not None for one in with_it)


@pytest.mark.parametrize("workers", [1, 4])
@pytest.mark.parametrize("rows", [1, 5])
def test_batches_hold_everybody_once_and_no_more_than_their_share(workers, rows):
    draw = random.Random(3)
    lengths = [draw.randint(1, 60) for _ in range(700)]
    batches = list(pack(lengths, rows, workers=workers, tokens=3000))
    assert sorted(place for batch in batches for place in batch) == list(range(700))
    held = [[lengths[place] for place in batch] for batch in batches]
    assert all(len(batch) * rows * max(batch) <= 3000 for batch in held)
    assert all(min(batch) >= max(following) for batch, following in itertools.pairwise(held))
    real = sum(lengths) / sum(len(batch) * max(batch) for batch in held)
    assert real > 0.85, "padding"
    assert len(batches) >= workers * 2
    assert list(pack([99_999], rows)) == [[0]]
    assert [len(batch) for batch in pack([5] * 10, rows, count=4)] == [4, 4, 2]
