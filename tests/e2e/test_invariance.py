"""What stands beside a sentence changes nothing: not the size of the batch, not the order, not a long neighbour.

Floating-point sums depend on their shape, so two candidates may change places where they are all but equal. Where an
output differs, both are scored in float64, token for token; a margin of 1e-4 or more is a fault, the rest is counted.
"""

import copy
import itertools
import random
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import itda
from itda.batch import EOS, token_batch
from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.nn.encoder_decoder import EncoderDecoder
from itda.seq2seq import Hypothesis, Seq2Seq

MARGIN = 1e-4
SHARE = 0.01  # of all sentences; more flips than these are no accidents of rounding
SIZES = (1, 7, 64)
SMALL = (
    "data.pairs=3000",
    "data.valid=",
    "model.embedding_dim=32",
    "model.encoder.dim=64",
    "model.decoder.dim=64",
    "model.attention.dim=32",
    "train.metric=loss",
    "train.learning_rate=0.01",
)


def neighbour(model: Seq2Seq, sources: Sequence[str]) -> str:
    """A source of 200 tokens or more, made of real ones."""
    assert model.tokenizers is not None
    text = ""
    for source in sources:
        text = f"{text} {source}"
        if len(model.tokenizers.src.encode(text)) >= 200:
            return text
    return text + " a" * 200


def decoded_in_many_ways(model: Seq2Seq, sources: list[str], beam: int) -> dict[str, list[Hypothesis]]:
    """Decode the same sentences alone, in batches, shuffled, and beside a neighbour of 200 tokens."""
    ways = {f"batch {size}": model.generate(sources, beam_size=beam, batch_size=size) for size in SIZES}
    order = list(range(len(sources)))
    random.Random(1).shuffle(order)
    shuffled = model.generate([sources[place] for place in order], beam_size=beam, batch_size=7)
    ways["shuffled"] = [shuffled[order.index(place)] for place in range(len(sources))]
    long, beside = neighbour(model, sources), list[Hypothesis]()
    for start in range(0, len(sources), 63):
        part = sources[start : start + 63]
        with pytest.warns(UserWarning, match="was cut to"):
            beside += model.generate([*part, long + " " + long], beam_size=beam)[:-1]
    ways["beside a long one"] = beside
    return ways


def margin(double: Seq2Seq, source: str, one: Hypothesis, other: Hypothesis, beam: int) -> float:
    """How far apart two outputs are in float64: by the tokens at which a greedy search parts, else by their scores."""
    assert double.tokenizers is not None
    src = double.tokenizers.src.encode(source)
    sides = [double.tokenizers.tgt.encode(hypothesis.text) for hypothesis in (one, other)]
    batch = token_batch([src, src], sides)
    scores = double.score_batch(batch)
    if beam > 1:
        penalty = double.config.decode.length_penalty
        first, second = (score.log_prob / score.tokens**penalty for score in scores)
        return abs(first - second)
    ended = [[*side, EOS] for side in sides]
    place = next(n for n, pair in enumerate(zip(*ended, strict=False)) if pair[0] != pair[1])
    return abs(scores[0].token_log_probs[place] - scores[1].token_log_probs[place])


def flips(model: Seq2Seq, sources: list[str], beam: int) -> dict[str, int]:
    """Count the outputs that differ from those of batch 1; fail where rounding cannot be the reason."""
    ways = decoded_in_many_ways(model, sources, beam)
    double = Seq2Seq(model.config, copy.deepcopy(model.model).double(), model.tokenizers)
    alone, counts = ways["batch 1"], dict[str, int]()
    for way, outputs in ways.items():
        counts[way] = 0
        for source, one, other in zip(sources, alone, outputs, strict=True):
            if one.tokens != other.tokens:
                found = margin(double, source, one, other, beam)
                assert found < MARGIN, f"{way}: {source!r} gives {one.text!r} alone, {other.text!r} there ({found:.3g})"
                counts[way] += 1
                continue
            assert one.score == pytest.approx(other.score, abs=MARGIN)
            if one.attention is not None:
                assert other.attention is not None
                assert one.attention.shape == other.attention.shape
                assert abs(one.attention - other.attention).max() < MARGIN
        assert counts[way] <= SHARE * len(sources), counts
    return counts


KINDS = {
    "recurrent": (),
    "transformer": (
        "model.encoder.kind=transformer",
        "model.decoder.kind=transformer",
        "model.transformer.num_kv_heads=2",
        "model.transformer.positions=rotary",
    ),
    "ssru": ("model.encoder.kind=convolution", "model.decoder.kind=ssru"),
}


@pytest.fixture(scope="session", params=KINDS)
def small_model(request: pytest.FixtureRequest, cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Seq2Seq:
    """A small model of Korean and English dates, trained for seconds: it is often wrong, in many ways."""
    run = tmp_path_factory.mktemp("invariance") / "run"
    return itda.train("dates", *SMALL, *KINDS[request.param], run=run, updates=100)


def sources_of(model: Seq2Seq, count: int) -> list[str]:
    pairs = read_pairs(locate(model.config.data.test))
    return [pair.src for pair in itertools.islice(pairs, count)]


@pytest.mark.parametrize("beam", [1, 3])
def test_neighbours_change_nothing(small_model: Seq2Seq, beam: int) -> None:
    sources = sources_of(small_model, 66)
    outputs = small_model.generate(sources, beam_size=beam)
    assert len({one.text for one in outputs}) > 10, "a model that always says the same proves nothing"
    flips(small_model, sources, beam)


def test_scores_do_not_depend_on_neighbours(small_model: Seq2Seq) -> None:
    pairs = [(source, source[::-1]) for source in sources_of(small_model, 20)]
    alone = small_model.score(pairs, batch_size=1)
    beside = small_model.score([*pairs, ("a " * 300, "b " * 300)], batch_size=64)[:-1]
    for one, other in zip(alone, beside, strict=True):
        assert one.tokens == other.tokens
        assert one.log_prob == pytest.approx(other.log_prob, abs=1e-3, rel=1e-5)


def test_a_fault_in_the_mask_is_found(small_model: Seq2Seq, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let attention read the padding, and see that this page notices."""
    sources = sources_of(small_model, 14)
    true_like = torch.ones_like

    def encode(model, side):  # type: ignore[no-untyped-def]
        memory = model.encoder(side)
        return type(memory)(memory.states, true_like(memory.mask), memory.summary)

    monkeypatch.setattr(EncoderDecoder, "encode", encode)
    with pytest.raises(AssertionError):
        flips(small_model, sources, 1)


@pytest.mark.long
def test_all_test_sentences_of_multi30k(corpora: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITDA_DATA", str(corpora))
    reduced = ("model.embedding_dim=128", "model.encoder.dim=192", "model.decoder.dim=192", "train.metric=loss")
    model = itda.train("multi30k-en-de-rnn", *reduced, "train.average=1", run=tmp_path / "run", minutes=3)
    sources = [pair.src for pair in read_pairs(locate("multi30k_en_de/test"))]
    assert len(sources) == 1000
    for beam in (1, 5):
        print(f"beam {beam}: outputs that changed places within {MARGIN}: {flips(model, sources, beam)}")
