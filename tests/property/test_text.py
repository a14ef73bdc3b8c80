"""Laws of text: what goes into a tokenizer comes out again, and nothing in a text is special."""

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from itda.config import TokenizerConfig
from itda.text.normalize import normalize
from itda.text.subwords import ESCAPE, STAND_IN, SubwordTokenizer, escape, unescape
from itda.text.tokenizer import Tokenizer, TokenizerPair, train_tokenizers
from itda.text.vocabulary import UNK

ODD = "\x00 \t\r\n\u2581\u2581\u2585\u2028\u0085\x0c\ufeff\u200d" + STAND_IN + ESCAPE + "<s></s><unk><pad><0x41>⁇"
TEXTS = st.text(st.one_of(st.characters(), st.sampled_from(ODD), st.sampled_from("the cat")), max_size=40)
FORMS = ("nfc", "nfd", "nfkc", "none")
SAMPLE = [
    ("the cat sat on the mat.", "die Katze saß auf der Matte."),
    ("the cats eat", "고양이가 밥을 먹는다"),
    ("<s> the cat </s>", "▁die <unk> Katze <pad>"),
    ("that that cat", "the <0x41> hat"),
]


def trained(**settings: object) -> TokenizerPair:
    return train_tokenizers(TokenizerConfig(**settings), lambda: iter(SAMPLE), seed=1)


@pytest.fixture(scope="module", params=[("bpe", 0.3), ("unigram", 0.3), ("bpe", 0.0)], ids=str)
def subwords(request: pytest.FixtureRequest) -> Tokenizer:
    model, sampling = request.param
    return trained(model=model, sampling=sampling, vocab_size=340).src


def many(function):
    """Try many texts, and always these."""
    for text in ("", " ", "  a  b ", "\u2581", STAND_IN, ESCAPE + STAND_IN, "\ud800", "<s>", "\x00", "각", "🏳️‍🌈"):
        function = example(text=text)(function)
    return settings(deadline=None, max_examples=150)(given(text=TEXTS)(function))


@many
def test_escape_is_undone_and_hides_the_space_mark(text: str) -> None:
    assert unescape(escape(text)) == text
    assert "\u2581" not in escape(text)


@many
def test_every_text_comes_back_from_its_subwords(subwords: Tokenizer, text: str) -> None:
    ids = subwords.encode(text)
    assert subwords.decode(ids) == subwords.normalize(text)
    assert min(ids, default=4) >= 4
    assert len(subwords.surfaces(text)) == len(subwords.pieces(ids)) == len(ids)


@many
def test_sampled_subwords_decode_to_the_same_text(subwords: Tokenizer, text: str) -> None:
    for seed in range(3):
        ids = subwords.sample(text, random.Random(seed))
        assert subwords.decode(ids) == subwords.normalize(text)
        assert min(ids, default=4) >= 4
        assert ids == subwords.sample(text, random.Random(seed))


@settings(deadline=None, max_examples=60)
@given(text=TEXTS, form=st.sampled_from(FORMS), kind=st.sampled_from(["characters", "words"]))
def test_known_characters_and_words_come_back(text: str, form: str, kind: str) -> None:
    config = TokenizerConfig(kind=kind, normalization=form, vocab_size=1000)
    tokenizer = train_tokenizers(config, lambda: iter([(text, "x")]), seed=1).src
    ids = tokenizer.encode(text)
    assert UNK not in ids
    assert tokenizer.decode(ids) == tokenizer.normalize(text) == normalize(text, form)
    assert len(tokenizer.surfaces(text)) == len(tokenizer.pieces(ids)) == len(ids)


@settings(deadline=None, max_examples=100)
@given(text=TEXTS, form=st.sampled_from(FORMS))
def test_normalising_twice_is_normalising_once_and_can_be_written(text: str, form: str) -> None:
    once = normalize(text, form)
    assert normalize(once, form) == once
    once.encode("utf-8")


@settings(deadline=None, max_examples=100)
@given(ids=st.lists(st.integers(0, 259), max_size=30))
def test_any_ids_a_model_may_write_decode_to_a_text(ids: list[int]) -> None:
    for tokenizer in ALL:
        text = tokenizer.decode([i % tokenizer.vocab_size for i in ids])
        text.encode("utf-8")


ALL = [trained(vocab_size=340).src, trained(kind="words").src, trained(kind="characters").src]


@settings(deadline=None, max_examples=60)
@given(text=st.text(st.sampled_from("the cat sat on mat. Katze밥을\u2581"), max_size=30))
def test_bpe_without_dropout_is_what_sentencepiece_does(text: str) -> None:
    plain = BPE.encode(text)
    assert ALMOST_OFF.sample(text, random.Random(0)) == plain


BPE = trained(model="bpe").src  # as many merges as there are
assert isinstance(BPE, SubwordTokenizer)
ALMOST_OFF = SubwordTokenizer("sentencepiece", "bpe", "nfc", 1e-300, BPE.proto)
