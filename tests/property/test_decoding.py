"""Every way to decode with every other: what each of the two promises holds on the text, or a UserError names both."""

import itertools
import random
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

import itda
from itda.batch import UNK
from itda.build import build_model
from itda.config import (
    AttentionConfig,
    Config,
    DataConfig,
    DecodeConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TokenizerConfig,
)
from itda.data.lexicon import learn
from itda.seq2seq import Hypothesis, Seq2Seq, join
from itda.text.tokenizer import train_tokenizers

WORDS = ["a", "dog", "cat", "runs", "sits", "on", "the", "red", "beach", "and", "sees", "two", "birds", "near", "water"]
TALK = [" ".join(random.Random(seed).choices(WORDS, k=seed % 7 + 1)) for seed in range(24)]
TEXTS = ["near the water", "a dog {x} on 7 {x} the {name}"]
UNITS = {
    "words": TokenizerConfig(kind="words", vocab_size=60),
    "characters": TokenizerConfig(kind="characters", vocab_size=60),
    "subwords": TokenizerConfig(kind="sentencepiece", vocab_size=330),
}


def make(kind: str = "bahdanau", unit: str = "words", seed: int = 0) -> Seq2Seq:
    """A model with random weights in float64, that writes nonsense by every rule."""
    config = Config(
        data=DataConfig(train="-"),
        tokenizer=UNITS[unit],
        model=ModelConfig(
            embedding_dim=8,
            encoder=EncoderConfig(dim=8, num_layers=2),
            decoder=DecoderConfig(kind=kind, dim=8),
            attention=AttentionConfig(dim=8),
        ),
        decode=DecodeConfig(beam_size=3, max_length_ratio=1.0, max_length_extra=6),
    )
    tokenizers = train_tokenizers(config.tokenizer, lambda: iter(zip(TALK, reversed(TALK), strict=True)), 1)
    torch.manual_seed(seed)
    model = build_model(config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.0)
    encoded = [
        (tokenizers.src.encode(src), tokenizers.tgt.encode(tgt)) for src, tgt in zip(TALK, TALK[::-1], strict=True)
    ]
    sizes = tokenizers.src.vocab_size, tokenizers.tgt.vocab_size
    lexicon = learn(lambda: iter(encoded), *sizes, frequent=6, per_token=4, per_sentence=5)
    return Seq2Seq(config, model, tokenizers, lexicon=lexicon)


MODELS = {
    "bahdanau-words": lambda: make(),
    "ensemble-subwords": lambda: join([make("luong", "subwords"), make("transformer", "subwords", 1)]),
}


OTHERS = {
    "luong-characters": lambda: make("luong", "characters"),
    "plain-words": lambda: make("plain"),
    "transformer-words": lambda: make("transformer"),
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> Seq2Seq:
    return MODELS[request.param]()


@pytest.fixture(scope="module", params=MODELS | OTHERS)
def any_model(request: pytest.FixtureRequest) -> Seq2Seq:
    return (MODELS | OTHERS)[request.param]()


@dataclass(frozen=True)
class Way:
    """One feature: how it is asked for, and what it promises of each hypothesis for a source text."""

    asked: dict[str, Any]
    holds: Callable[[Hypothesis, str, dict[str, Any]], Any] = lambda one, text, asked: True
    forces: bool = False  # it may have to write a token twice


def no_repeats(size: int, one: Hypothesis) -> bool:
    grams = [one.tokens[at : at + size] for at in range(len(one.tokens) - size + 1)]
    return len(grams) == len(set(grams))


def score(one: Hypothesis, asked: dict[str, Any]) -> bool:
    """The score by its formula, from the model's own log-probability and attention."""
    length, strength = len(one.tokens) + 1, asked.get("length_penalty", 1.0)
    kind = asked.get("length_normalization", "average")
    total = one.log_prob
    if asked.get("repetition_penalty"):
        total -= asked["repetition_penalty"] * sum(token in one.tokens[:at] for at, token in enumerate(one.tokens))
        if "sample" in asked:
            total = one.log_prob  # a sample is not ranked
    if kind == "average":
        expected = total / length**strength
    elif kind == "gnmt":
        expected = total / ((5 + length) / 6) ** strength
    else:
        expected = total + strength * length
    if asked.get("coverage_penalty"):
        covered = np.clip(one.attention.sum(axis=0), 1e-6, 1.0)
        expected += asked["coverage_penalty"] * float(np.log(covered).sum())
    return one.score == pytest.approx(expected, abs=1e-4 if asked.get("coverage_penalty") else 1e-6)


WAYS = {
    "greedy": Way({"beam_size": 1}),
    "beam": Way({"beam_size": 4}),
    "sampling": Way({"sample": {"temperature": 0.7, "top_k": 8, "seed": 3}}),
    "truncation": Way({"sample": {"top_p": 0.8, "min_p": 0.05, "seed": 5}}),
    "n_best": Way({"n_best": 2}),
    "diverse": Way({"diverse_groups": 2, "beam_size": 4, "diversity": 100.0, "n_best": 2}),
    "gnmt": Way({"length_normalization": "gnmt", "length_penalty": 0.6}),
    "reward": Way({"length_normalization": "reward", "length_penalty": 0.3}),
    "coverage": Way({"coverage_penalty": 0.4}),
    "no_repeat": Way({"no_repeat_ngram": 2}, lambda one, text, asked: no_repeats(2, one)),
    "repetition": Way({"repetition_penalty": 1e4}, lambda one, text, asked: no_repeats(1, one)),
    "min_length": Way({"min_length": 5}, lambda one, text, asked: len(one.tokens) >= 5),
    "prefix": Way({"prefix": "The cat si"}, lambda one, text, asked: one.text.startswith("The cat si"), True),
    "must": Way(
        {"must": ["red beach", "Zoo"]}, lambda one, text, asked: "red beach" in one.text and "Zoo" in one.text, True
    ),
    "must_not": Way(
        {"must_not": ["wo", "the b", "is", "nk"]},
        lambda one, text, asked: not any(phrase in one.text for phrase in ("wo", "the b", "is", "nk")),
    ),
    "terminology": Way(
        {"terminology": {"dog": "Hund", "water": "see red", "wat": "never"}},
        lambda one, text, asked: all(
            tgt in one.text for src, tgt in (("dog", "Hund"), ("water", "see red")) if src in text.split()
        ),
        True,
    ),
    "placeholders": Way(
        {"placeholders": True},
        lambda one, text, asked: all(one.text.count(p) >= text.count(p) for p in re.findall(r"\{\w+\}", text)),
        True,
    ),
    "shortlist": Way({"shortlist": "on"}),
    "replace_unknown": Way(
        {"replace_unknown": True}, lambda one, text, asked: "<unk>" not in one.text or not one.alignment
    ),
}

REFUSED = {  # pairs that cannot compose, and the two names in the error
    ("sampling", "beam"): ("sample", "beam_size"),
    ("truncation", "beam"): ("sample", "beam_size"),
    ("sampling", "diverse"): ("sample", "beam_size"),
    ("truncation", "diverse"): ("sample", "beam_size"),
    ("no_repeat", "placeholders"): ("no_repeat_ngram", "{x}"),
}
PAIRS = [
    (one, other)
    for one, other in itertools.combinations(WAYS, 2)
    if all(WAYS[one].asked[key] == WAYS[other].asked[key] for key in WAYS[one].asked.keys() & WAYS[other].asked.keys())
]


def names_of(one: str, other: str) -> tuple[str, ...]:
    return REFUSED.get((one, other), REFUSED.get((other, one), ()))


def promised(model: Seq2Seq, ways: list[Way], asked: dict[str, Any]) -> list[Hypothesis]:
    """Generate, and hold each hypothesis against what each way promises."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = model.generate(TEXTS, **asked)
    forced = any(way.forces for way in ways)
    for text, best in zip(TEXTS, found, strict=True):
        assert len(best.n_best) == asked.get("n_best", 1)
        if "sample" not in asked:
            assert len({one.tokens for one in best.n_best}) == len(best.n_best)
        for one in best.n_best:
            for way in ways:
                if way is not WAYS["repetition"] or not forced:
                    assert way.holds(one, text, asked), (one.text, one.tokens)
            assert score(one, asked)
            assert sum(one.token_log_probs) == pytest.approx(one.log_prob)
    return found


def no_attention(model: Seq2Seq, asked: dict[str, Any]) -> bool:
    return (
        "coverage_penalty" in asked
        and model.config.model.decoder.kind == "plain"
        and not hasattr(model.model.encoder, "encoders")
    )


@pytest.mark.parametrize("pair", PAIRS, ids="-".join)
def test_two_ways_keep_both_promises_or_refuse_each_other(model: Seq2Seq, pair: tuple[str, str]) -> None:
    ways = [WAYS[name] for name in pair]
    asked = {key: value for way in ways for key, value in way.asked.items()}
    names = ("coverage_penalty", "attention") if no_attention(model, asked) else names_of(*pair)
    if names:
        with pytest.raises(itda.UserError) as caught:
            model.generate(TEXTS, **asked)
        assert all(name in str(caught.value) for name in names)
        return
    found = promised(model, ways, asked)
    alone = [model.generate([text], **asked)[0] for text in TEXTS]
    assert [one.text for one in alone] == [one.text for one in found]
    assert [one.score for one in alone] == pytest.approx([one.score for one in found], abs=1e-9)


def test_n_grams_are_kept_free_for_what_must_be_written() -> None:
    """Greedily, an n-gram of the phrase would be written before it, and forbid it."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = OTHERS["luong-characters"]().generate(TEXTS, must=["Hund"], no_repeat_ngram=2, beam_size=1)
    for one in found:
        assert "Hund" in one.text
        assert no_repeats(2, one)


def test_what_is_put_in_place_of_an_unknown_word_is_not_banned() -> None:
    """Nobody knows what an <unk> will stand for, so none is written where text is banned."""
    model = make()
    with torch.no_grad():
        model.model.head.bias[UNK] = 15.0
    (free,) = model.generate(["Zebra Zebra"], replace_unknown=True)
    (bound,) = model.generate(["Zebra Zebra"], replace_unknown=True, must_not=["Zeb"])
    assert "Zebra" in free.text
    assert "Zebra" not in bound.text


@pytest.mark.parametrize("name", WAYS)
def test_each_way_keeps_its_promise(any_model: Seq2Seq, name: str) -> None:
    asked = WAYS[name].asked
    if no_attention(any_model, asked):
        with pytest.raises(itda.UserError, match="coverage_penalty needs attention"):
            any_model.generate(TEXTS, **asked)
    else:
        promised(any_model, [WAYS[name]], asked)


@pytest.mark.parametrize("name", WAYS)
def test_a_stream_gives_the_text_of_each_way_piece_by_piece(model: Seq2Seq, name: str) -> None:
    asked = WAYS[name].asked
    if no_attention(model, asked):
        return
    if asked.get("n_best"):
        with pytest.raises(itda.UserError, match=r"stream .* n_best"):
            list(model.stream(TEXTS[0], **asked))
        asked = {key: value for key, value in asked.items() if key != "n_best"}
    for text in TEXTS:
        pieces = list(model.stream(text, **asked))
        assert "".join(pieces) == model.generate([text], **asked)[0].text
        assert all(pieces)


@pytest.mark.parametrize("name", WAYS)
def test_the_tree_of_each_way_holds_what_was_found(model: Seq2Seq, name: str) -> None:
    asked = WAYS[name].asked
    if no_attention(model, asked):
        return
    if "sample" in asked:
        with pytest.raises(itda.UserError, match=r"search_tree .* sample"):
            model.search_tree(TEXTS[0], **asked)
        return
    for text in TEXTS:
        tree, (best,) = model.search_tree(text, **asked), model.generate([text], **asked)
        assert all(node.parent < number for number, node in enumerate(tree.nodes))
        spoken = [tuple(model.tokenizers.tgt.pieces(tree.path(end)[:-1])) for end in tree.finished]
        for one in best.n_best:
            assert one.tokens in spoken
        going_on = {node.parent for node in tree.nodes}
        for number, node in enumerate(tree.nodes):
            assert (node.state == "live") == (number in going_on)


def test_pieces_come_before_the_end() -> None:
    """A greedy stream gives each token when it is chosen, a beam what its hypotheses share."""
    model = make(seed=2)
    for text in TALK[:8]:
        (best,) = model.generate([text], beam_size=1)
        assert len(list(model.stream(text, beam_size=1))) == len(best.tokens)
    assert max(len(list(model.stream(text))) for text in TALK) > 1


def test_certified_refuses_what_is_not_greedy() -> None:
    model = make()
    for asked, named in (
        ({"beam_size": 3}, "beam_size is 3"),
        ({"n_best": 2}, "n_best|beam_size"),
        ({"sample": True}, "sample"),
    ):
        with pytest.raises(itda.UserError, match=rf'shortlist = "certified".*{named}'):
            model.generate(["a dog"], **{"beam_size": 1, **asked}, shortlist="certified")


def test_certified_text_is_greedy_text() -> None:
    for make_one in (MODELS | OTHERS).values():
        model = make_one()
        for asked in ({}, {"no_repeat_ngram": 2}, {"prefix": "The cat"}, {"coverage_penalty": 0.0}):
            greedy, certified = (
                [one.text for one in model.generate(TEXTS, beam_size=1, shortlist=mode, **asked)]
                for mode in ("off", "certified")
            )
            assert certified == greedy


def test_without_a_shortlist_the_verb_is_named() -> None:
    model = make()
    model.lexicon = None
    with pytest.raises(itda.UserError, match="itda shortlist"):
        model.generate(["a dog"], shortlist="on")
    assert model.generate(["a dog"], shortlist="off")
