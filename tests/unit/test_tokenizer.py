"""Tokenizers: trained with a seed, saved without pickle, silent, bounded in time."""

import ast
import json
import os
import random
import re
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest

from itda.config import TokenizerConfig
from itda.errors import DamagedFileError, UserError
from itda.text import tokenizer as module
from itda.text import vocabulary
from itda.text.sampling import sample_lattice, word_lattice
from itda.text.tokenizer import TokenizerPair, load_tokenizers, train_tokenizers

PAIRS = [
    ("a dog runs on the beach", "ein Hund läuft am Strand"),
    ("two dogs", "zwei Hunde"),
    ("the dog", "der Hund"),
] * 5


def train(pairs=PAIRS, seed: int = 1, **settings: object) -> TokenizerPair:
    return train_tokenizers(TokenizerConfig(**settings), lambda: iter(pairs), seed)


KINDS = [
    {"kind": "sentencepiece", "model": "bpe", "vocab_size": 330},
    {"kind": "sentencepiece", "model": "unigram", "vocab_size": 300, "joint": False, "sampling": 0.2},
    {"kind": "characters"},
    {"kind": "words", "joint": False},
]


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: s["kind"])
def test_saved_and_loaded_it_is_the_same(settings: dict, tmp_path: Path) -> None:
    pair = train(**settings)
    pair.save(tmp_path)
    loaded = load_tokenizers(tmp_path)
    assert loaded.fingerprint() == pair.fingerprint() == train(**settings).fingerprint()
    assert loaded.joint == pair.joint == settings.get("joint", True)
    for src, tgt in [*PAIRS, ("unseen ▁ <s> 개", "")]:
        assert loaded.src.encode(src) == pair.src.encode(src)
        assert loaded.tgt.sample(tgt, random.Random(1)) == pair.tgt.sample(tgt, random.Random(1))
    assert loaded.src.deterministic == ("sampling" not in settings)


def test_another_setting_is_another_fingerprint() -> None:
    prints = [train(**settings).fingerprint() for settings in KINDS]
    prints += [
        train(kind="characters", normalization="nfd").fingerprint(),
        train(vocab_size=330, sampling=0.1).fingerprint(),
    ]
    assert len(set(prints)) == len(prints)


@pytest.mark.parametrize("settings", KINDS[1:], ids=lambda s: s["kind"])
def test_a_damaged_file_is_named(settings: dict, tmp_path: Path) -> None:
    train(**settings).save(tmp_path)
    for path in sorted(tmp_path.iterdir()):
        whole = path.read_bytes()
        for damaged in (b"", whole[: len(whole) // 2], whole.replace(b"a", b"b")):
            path.write_bytes(damaged)
            with pytest.raises(DamagedFileError, match=path.name):
                load_tokenizers(tmp_path)
        path.write_bytes(whole)
    path.unlink()
    with pytest.raises(DamagedFileError, match=path.name):
        load_tokenizers(tmp_path)


def test_too_little_text_lowers_the_vocabulary_with_a_notice() -> None:
    for model in ("bpe", "unigram"):
        pair = train([("a", "b")] * 200, model=model, joint=False)
        assert len(pair.notices) == 2
        assert (
            f"tokenizer.vocab_size is 8000; the text of the source fills only {pair.src.vocab_size}" in pair.notices[0]
        )
    assert train(kind="characters").notices == ()


def test_a_vocabulary_below_what_the_characters_need_is_refused() -> None:
    with pytest.raises(UserError, match=r"tokenizer.vocab_size is 100; it must be 283 or more"):
        train(vocab_size=100)
    with pytest.raises(UserError, match="no pairs"):
        train([])


def test_training_prints_nothing(capfd: pytest.CaptureFixture) -> None:
    train(model="bpe", vocab_size=330)
    train(model="unigram", vocab_size=300)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("settings", KINDS, ids=lambda s: s["kind"])
def test_one_huge_token_takes_bounded_time(settings: dict) -> None:
    huge = "a" * 200_000
    start = time.monotonic()
    pair = train([(huge, "b"), *PAIRS], **settings)
    assert pair.src.decode(pair.src.encode(huge)) == huge
    assert pair.src.decode(pair.src.sample(huge, random.Random(1))) == huge
    assert time.monotonic() - start < 10


def test_min_count_and_vocab_size_choose_the_most_frequent() -> None:
    text = [("aaaa bbb cc d", "")]
    assert train(text, kind="characters", min_count=3).src.entries == ("a", " ", "b")
    assert train(text, kind="characters", vocab_size=5).src.entries == ("a",)
    assert train(text, kind="characters", min_count=3).src.encode("ad") == [4, 1]


def test_unknown_words_are_replaced_where_a_text_is_given() -> None:
    words = train([("the dog", "the dog")], kind="words").src
    ids = [2, *words.encode("the fox, the"), 3, 0]
    assert ids == [2, 5, 1, 1, 5, 3, 0]
    assert words.decode(ids) == "the <unk> <unk> the"
    assert words.decode(ids, {2: "fox"}) == "the fox <unk> the"
    assert words.surfaces("the fox, the") == ["the", "fox", ",", "the"]
    assert words.pieces(words.encode("the dog")) == ["the", "dog"]
    assert train(vocab_size=330).src.decode([1, 1], {1: "▁"}) == "<unk>▁"


def test_words_keep_marks_and_joiners_inside() -> None:
    assert vocabulary.split_words("हिन्दी  cafe\u0301,x\n(no)") == [
        " हिन्दी",
        " ",
        " cafe\u0301",
        ",",
        "x",
        "\n",
        "(",
        "no",
        ")",
    ]


def test_special_ids_are_those_of_the_batch() -> None:
    source = Path(vocabulary.__file__).parents[1].joinpath("batch.py").read_text(encoding="utf-8")  # it imports torch
    for names in ("PAD, UNK, BOS, EOS", "SPECIALS"):
        value = re.search(rf"^{names} = (.+)$", source, re.MULTILINE)
        found = [getattr(vocabulary, name) for name in names.split(", ")]
        assert ast.literal_eval(value[1]) == (tuple(found) if len(found) > 1 else found[0])


def test_sampling_is_the_same_in_every_process() -> None:
    program = (
        "import random; from tests_pairs import PAIRS; from itda.config import TokenizerConfig\n"
        "from itda.text.tokenizer import train_tokenizers\n"
        "for model in ('bpe', 'unigram'):\n"
        "    c = TokenizerConfig(model=model, vocab_size=300, sampling=0.3)\n"
        "    t = train_tokenizers(c, lambda: iter(PAIRS), 1).src\n"
        "    print([t.sample(x + ' 개', random.Random(n)) for n, (x, _) in enumerate(PAIRS)])\n"
        "import sys; assert 'torch' not in sys.modules\n"
    ).replace("from tests_pairs import PAIRS", f"PAIRS = {PAIRS!r}")
    printed = {
        subprocess.run(
            [sys.executable, "-c", program],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONUTF8": "1"},
            capture_output=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(printed) == 1
    assert len(printed.pop().split()) > 100


def test_sampling_varies_and_prefers_what_is_probable() -> None:
    for model in ("bpe", "unigram"):
        tokenizer = train(model=model, sampling=0.3).src
        drawn = Counter(tuple(tokenizer.sample("the dog", random.Random(seed))) for seed in range(300))
        assert len(drawn) > 3
        assert drawn.most_common(1)[0][0] == tuple(tokenizer.encode("the dog"))


def test_unigram_draws_follow_the_powers_of_the_probabilities() -> None:
    scores = {"a": -1.0, "b": -2.0, "ab": -2.5}
    lattice = word_lattice("ab", scores, 2, -20.0, alpha=0.5)
    draw = random.Random(7)
    counts = Counter(tuple(sample_lattice("ab", lattice, draw)) for _ in range(20_000))
    apart, joined = 2.718281828 ** (0.5 * -3.0), 2.718281828 ** (0.5 * -2.5)
    assert counts[("ab",)] / 20_000 == pytest.approx(joined / (apart + joined), abs=0.015)


def test_a_corpus_beyond_the_limit_is_sampled_by_the_seed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SAMPLE_CHARACTERS", 2_000)
    pairs = [(chr(0x4E00 + number), "x" * 10) for number in range(1000)]
    entries = [train(pairs, seed=seed, kind="characters").src.entries for seed in (1, 1, 2)]
    assert entries[0] == entries[1] != entries[2]
    assert 120 < len(entries[0]) < 300


def test_saved_files_are_json_or_sentencepiece(tmp_path: Path) -> None:
    train(kind="characters").save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["joint.json", "tokenizers.json"]
    assert json.loads((tmp_path / "joint.json").read_text(encoding="utf-8"))[0] == " "
