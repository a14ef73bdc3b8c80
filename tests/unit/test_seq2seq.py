"""Text in, text out: order, blank and long lines, neighbours, scores, attention, unknown words, vectors."""

import itertools
import math
import random
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from itda.batch import BOS, EOS, UNK, token_batch
from itda.build import build_model
from itda.config import (
    AttentionConfig,
    Config,
    DataConfig,
    DecodeConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TeacherForcingConfig,
    TokenizerConfig,
    TrainConfig,
)
from itda.errors import UserError
from itda.seq2seq import Seq2Seq
from itda.text.tokenizer import train_tokenizers
from itda.training.validation import decoded_metrics, likelihood_metrics

WORDS = ["a", "dog", "cat", "runs", "sits", "on", "the", "red", "beach", "and", "sees", "two", "birds", "near", "water"]
TALK = [" ".join(random.Random(seed).choices(WORDS, k=seed % 7 + 1)) for seed in range(24)]
PAIRS = list(zip(TALK, reversed(TALK), strict=True))


def make(kind="bahdanau", score="additive", unit="words", seed=0, beam_size=3, **data) -> Seq2Seq:
    """A model with random weights in float64: what it says makes no sense, but must obey every law."""
    config = Config(
        data=DataConfig(train="-", **data),
        tokenizer=TokenizerConfig(kind=unit, vocab_size=60),
        model=ModelConfig(
            embedding_dim=8,
            encoder=EncoderConfig(dim=8, num_layers=2),
            decoder=DecoderConfig(kind=kind, dim=8),
            attention=AttentionConfig(kind=score, dim=8),
        ),
        decode=DecodeConfig(beam_size=beam_size),
    )
    tokenizers = train_tokenizers(config.tokenizer, lambda: iter(PAIRS), 1)
    torch.manual_seed(seed)
    model = build_model(config, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=1.5)
    return Seq2Seq(config, model, tokenizers)


@pytest.fixture(scope="module", params=["plain", "bahdanau", "luong"])
def model(request) -> Seq2Seq:
    return make(request.param)


@pytest.fixture(scope="module")
def looking() -> Seq2Seq:
    return make()


def said(hypotheses):
    return [(one.text, one.tokens) for one in hypotheses]


# --- generate ----------------------------------------------------------------------------------------------------


def test_neighbours_order_and_batch_size_change_nothing(model):
    alone = [model.generate([text])[0] for text in TALK[:12]]
    for batch_size in (1, 5, 64):
        together = model.generate(TALK[:12], batch_size=batch_size)
        assert said(together) == said(alone)
        assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-9)
    order = random.Random(1).sample(range(12), 12)
    shuffled = model.generate([TALK[place] for place in order])
    assert said(shuffled) == [said(alone)[place] for place in order]
    long = " ".join(WORDS * 8)
    beside = model.generate([long, *TALK[:12], long])
    assert said(beside[1:-1]) == said(alone)


def test_what_is_generated_is_not_all_the_same(model):
    assert len({one.text for one in model.generate(TALK)}) > 10


def test_chunks_of_a_stream_change_nothing(model):
    whole = model.generate(TALK[:12])
    for chunk in (1, 5):
        assert said(model.generate_lazily(TALK[:12], chunk=chunk)) == said(whole)


@pytest.mark.parametrize("blank", ["", " ", "\t", "\u3000 "])
def test_a_blank_text_gives_a_blank_output_in_its_place(looking, blank):
    found = looking.generate([TALK[3], blank, TALK[5], blank])
    assert said([found[0], found[2]]) == said(looking.generate([TALK[3], TALK[5]]))
    for one in (found[1], found[3]):
        assert (one.text, one.tokens, one.alignment, one.notice) == ("", (), [], "")


def test_nothing_gives_nothing(looking):
    assert looking.generate([]) == []
    assert [one.text for one in looking.generate([""])] == [""]


def test_an_over_long_text_is_cut_with_a_warning_that_names_its_line():
    short = make(max_src_length=3)
    long, cut = "a dog runs on the beach", "a dog runs"
    with pytest.warns(UserWarning, match=r"^line 2: the source has 6 tokens and was cut to 3") as told:
        found = short.generate(["a dog", long, cut])
    assert len(told) == 1
    assert said(found)[1] == said(found)[2]
    assert found[1].src_tokens == ("a", "dog", "runs")
    assert "line 2" in found[1].notice
    assert (found[0].notice, found[2].notice) == ("", "")


def test_lines_are_counted_across_chunks():
    short = make(max_src_length=3)
    notices = [one.notice for one in short.generate_lazily(["a dog"] * 4 + ["a dog runs on"], chunk=2)]
    assert [notice[:7] for notice in notices] == ["", "", "", "", "line 5:"]


def test_the_n_best_are_sorted_and_distinct(model):
    for one in model.generate(TALK[:5], n_best=4, beam_size=6):
        assert len(one.n_best) == 4
        assert (one.n_best[0].text, one.n_best[0].score) == (one.text, one.score)
        scores = [other.score for other in one.n_best]
        assert scores == sorted(scores, reverse=True)
        assert len({other.tokens for other in one.n_best}) == 4
    narrow = model.generate(TALK[:2], n_best=4, beam_size=1)
    assert all(len(one.n_best) == 4 for one in narrow), "a beam as wide as what is asked for"


def test_settings_of_a_call_replace_those_of_the_recipe(looking):
    greedy, beam = looking.generate(TALK, beam_size=1), looking.generate(TALK)
    assert said(beam) == said(looking.generate(TALK, beam_size=3)) == said(looking.generate(TALK, beam_size=None))
    assert said(greedy) != said(beam)
    brief = looking.generate(TALK, max_length_ratio=0.0, max_length_extra=2)
    assert max(len(one.tokens) for one in brief) <= 2
    assert looking.config.decode.beam_size == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"beam_sise": 3}, "unknown key 'decode.beam_sise'; did you mean 'decode.beam_size'"),
        ({"beam_size": 0}, "beam_size is 0"),
        ({"max_length_ratio": -1.0}, "must be a number from 0 to 1000"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"n_best": 0}, "n_best is 0"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused(looking, settings, message):
    with pytest.raises(UserError, match=message):
        looking.generate(["a dog"], **settings)


def test_one_text_is_not_a_list_of_letters(looking):
    with pytest.raises(UserError, match=r"generate\(\[text\]\)"):
        looking.generate("a dog")


def test_a_score_is_what_teacher_forcing_says(model):
    """`log_prob` of a hypothesis is the sum over its tokens and eos of the head's scores."""
    found = model.generate(TALK[:6])
    scores = model.score([(text, one.text) for text, one in zip(TALK, found, strict=False)])
    for one, score in zip(found, scores, strict=True):
        if "<unk>" not in one.text:  # the text of an unknown word is another word
            assert one.log_prob == pytest.approx(score.log_prob, abs=1e-9)
            assert one.token_log_probs == pytest.approx(score.token_log_probs, abs=1e-9)
        assert one.score == pytest.approx(one.log_prob / (len(one.tokens) + 1), abs=1e-9)
        assert len(one.token_log_probs) == len(one.tokens) + 1


def test_dropout_is_switched_off_whoever_trained_last(looking):
    expected = said(looking.generate(TALK[:4]))
    score = looking.score(PAIRS[:4])
    looking.model.train()
    assert said(looking.generate(TALK[:4])) == expected
    looking.model.train()
    assert looking.score(PAIRS[:4]) == score


# --- stream ------------------------------------------------------------------------------------------------------


def test_a_stream_reads_no_further_than_it_must(looking):
    """An endless source: outputs come while it goes on, and never more than a chunk is held."""
    read = []

    def endless():
        for number in itertools.count():
            read.append(number)
            yield TALK[number % len(TALK)]

    stream = looking.generate_lazily(endless(), chunk=4)
    assert read == [], "nothing before it is asked"
    first = [next(stream) for _ in range(4)]
    assert len(read) == 4
    next(stream)
    assert len(read) == 8
    assert said(first) == said(looking.generate(TALK[:4]))
    assert len(list(itertools.islice(looking.generate_lazily(endless(), chunk=3), 10))) == 10


def test_long_lines_make_a_chunk_shorter(looking, monkeypatch):
    monkeypatch.setattr("itda.seq2seq.CHARACTERS", 40)
    read = []

    def lines():
        for number in range(10):
            read.append(number)
            yield "a dog sits on the beach"

    stream = looking.generate_lazily(lines())
    next(stream)
    assert len(read) == 2


# --- attention ---------------------------------------------------------------------------------------------------


def test_attention_has_a_row_for_each_token_and_eos(looking):
    for text, one in zip(TALK[:8], looking.generate(TALK[:8]), strict=True):
        assert one.src_tokens == tuple(text.split())
        assert one.attention.shape == (len(one.tokens) + 1, len(one.src_tokens) + 1)
        np.testing.assert_allclose(one.attention.sum(1), 1, atol=1e-6)
        links = one.alignment
        assert [tgt for _, tgt in links] == list(range(len(one.tokens)))
        for src, tgt in links:
            assert src == one.attention[tgt, :-1].argmax(), "the best real token; eos is not one"


def test_a_model_without_attention_aligns_nothing():
    (one,) = make("plain").generate(["a dog"])
    assert one.attention is None
    assert one.alignment == []
    assert make("plain").attention("a dog", "two birds").attention is None


def test_forced_attention_is_that_of_the_search(looking):
    for text, one in zip(TALK[:5], looking.generate(TALK[:5]), strict=True):
        if "<unk>" in one.text:
            continue
        forced = looking.attention(text, one.text)
        np.testing.assert_allclose(forced.attention, one.attention, atol=1e-6)
        assert (forced.tokens, forced.src_tokens, forced.alignment) == (one.tokens, one.src_tokens, one.alignment)
        assert forced.log_prob == pytest.approx(one.log_prob, abs=1e-9)
        assert forced.score == pytest.approx(one.score, abs=1e-9)


def rigged(model: Seq2Seq, ids: list[int]) -> None:
    """Let the head write these ids whatever it sees: eos once they are written."""
    state = {"position": 0}

    def log_probs(decoded, memory, candidates=None):
        wanted = ids[state["position"]] if state["position"] < len(ids) else EOS
        state["position"] += 1
        answer = decoded.features.new_full((*decoded.features.shape[:2], model.model.head.vocab_size), -30.0)
        answer[..., wanted] = -0.1
        return answer

    model.model.head.log_probs = log_probs


def test_an_unknown_word_is_replaced_by_the_word_that_was_looked_at():
    known, text = "dog", "a Zebra runs quickly"
    for seed in range(3):
        copying = make(seed=seed, beam_size=1)
        word = copying.tokenizers.tgt.encode(known)[0]
        rigged(copying, [UNK, word, UNK])
        (one,) = copying.generate([text], replace_unknown=True)
        looked = [text.split()[src] for src, _ in one.alignment]
        assert one.text == f"{looked[0]} {known} {looked[2]}"
        assert one.tokens == ("<unk>", known, "<unk>"), "what the model wrote stays to be seen"
        assert one.src_tokens == ("a", "<unk>", "runs", "<unk>")
        rigged(copying, [UNK, word, UNK])
        assert copying.generate([text])[0].text == f"<unk> {known} <unk>"


# --- score -------------------------------------------------------------------------------------------------------


def test_scores_are_the_sums_of_the_head(model):
    tokenizers = model.tokenizers
    for batch_size in (1, 64):
        for (src, tgt), score in zip(PAIRS, model.score(PAIRS, batch_size=batch_size), strict=True):
            src_ids, tgt_ids = tokenizers.src.encode(src), tokenizers.tgt.encode(tgt)
            with torch.no_grad():
                memory = model.model.encode(token_batch([src_ids], [tgt_ids]).src)
                state, expected, right = model.model.decoder.start(memory), [], 0
                for previous, wanted in zip([BOS, *tgt_ids], [*tgt_ids, EOS], strict=True):
                    decoded, state = model.model.decoder.step(torch.tensor([previous]), state)
                    log_probs = model.model.head.log_probs(decoded, memory)[0, 0]
                    expected.append(float(log_probs[wanted]))
                    right += int(log_probs.argmax()) == wanted
            assert score.token_log_probs == pytest.approx(expected, abs=1e-9)
            assert score.log_prob == pytest.approx(sum(expected), abs=1e-9)
            assert (score.tokens, score.correct) == (len(tgt_ids) + 1, right)


def test_blank_sides_can_be_scored(looking):
    both, source, target = looking.score([("", ""), ("", "a dog"), ("a dog", "")])
    assert (both.tokens, source.tokens, target.tokens) == (1, 3, 1)
    assert all(math.isfinite(one.log_prob) for one in (both, source, target))
    assert looking.score([]) == []


# --- validation: no references where the model writes, references where it is measured ---------------------------


def test_what_is_written_for_bleu_saw_no_reference(looking, monkeypatch):
    """Teacher forcing at evaluation would make the outputs follow the references."""
    written = []

    def record(hypotheses, references):
        written.append((list(hypotheses), list(references)))
        return []

    monkeypatch.setattr("itda.training.validation.text_metrics", record)
    monkeypatch.setattr("itda.training.validation.DECODED_METRICS", ())
    decoded_metrics(looking, PAIRS[:8])
    decoded_metrics(looking, [(src, "water " * 9) for src, _ in PAIRS[:8]])
    (one, references), (other, _) = written
    assert one == other == [h.text for h in looking.generate([src for src, _ in PAIRS[:8]], beam_size=1)]
    assert references == [tgt for _, tgt in PAIRS[:8]]


def test_the_search_is_given_sources_alone(looking, monkeypatch):
    """`Decoder.forward`, which is teacher forcing, is never called while the model writes."""

    def forbidden(*_arguments, **_settings):
        raise AssertionError("teacher forcing")

    monkeypatch.setattr(looking.model.decoder, "forward", forbidden)
    assert len(looking.generate(TALK[:3])) == 3
    with pytest.raises(AssertionError, match="teacher forcing"):
        looking.score(PAIRS[:1])


def validation_batches(seq2seq, pairs, size):
    for start in range(0, len(pairs), size):
        ids = [
            (seq2seq.tokenizers.src.encode(s), seq2seq.tokenizers.tgt.encode(t)) for s, t in pairs[start : start + size]
        ]
        yield token_batch([s for s, _ in ids], [t for _, t in ids])


@pytest.mark.parametrize("size", [1, 7, 24])
def test_perplexity_is_of_teacher_forcing(looking, size):
    """By hand from single sentences; however the batches fall, and whatever ratio the recipe trains with."""
    scores = looking.score(PAIRS, batch_size=1)
    nll, tokens = -sum(one.log_prob for one in scores), sum(one.tokens for one in scores)
    forcing = TeacherForcingConfig(ratio=0.0)
    free = replace(
        looking, config=replace(looking.config, train=TrainConfig(teacher_forcing=forcing, label_smoothing=0.2))
    )
    free.model.train()
    metrics = likelihood_metrics(free, validation_batches(free, PAIRS, size))
    assert metrics["loss"] == pytest.approx(nll / tokens)
    assert metrics["perplexity"] == pytest.approx(math.exp(nll / tokens))
    assert metrics["token_accuracy"] == pytest.approx(sum(one.correct for one in scores) / tokens)
    assert free_running_nll(looking) != pytest.approx(nll / tokens, rel=1e-3), "the check on the check"


@torch.no_grad()
def free_running_nll(seq2seq):
    """What a perplexity computed without teacher forcing would be: the references under the model's own prefixes."""
    nll = tokens = 0.0
    for batch in validation_batches(seq2seq, PAIRS, 1):
        memory = seq2seq.model.eval().encode(batch.src)
        state, previous = seq2seq.model.decoder.start(memory), torch.tensor([BOS])
        for wanted in batch.tgt_out.ids[0].tolist():
            decoded, state = seq2seq.model.decoder.step(previous, state)
            nll -= float(seq2seq.model.head.log_probs(decoded, memory)[0, 0, wanted])
            tokens += 1
            previous = seq2seq.model.head.predict(decoded, memory)[:, 0]
    return nll / tokens


def test_without_validation_pairs_there_is_no_metric(looking):
    assert likelihood_metrics(looking, iter(())) == {}


# --- vectors -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def vectors() -> Seq2Seq:
    config = Config(
        data=DataConfig(kind="vectors", train="-", src_dim=3, tgt_dim=2),
        model=ModelConfig(encoder=EncoderConfig(dim=8), decoder=DecoderConfig(kind="luong", dim=8)),
    )
    torch.manual_seed(0)
    return Seq2Seq(config, build_model(config))


def test_prediction_feeds_each_vector_back(vectors):
    series = [torch.randn(4, 3), torch.randn(2, 3)]
    vectors.model.train()
    found = vectors.predict(series, length=5)
    assert found.shape == (2, 5, 2)
    model = vectors.model
    with torch.no_grad():
        for row, one in enumerate(series):
            memory = model.encode(replace_side(one))
            state, previous = model.decoder.start(memory), torch.zeros(1, 2)
            for position in range(5):
                decoded, state = model.decoder.step(previous, state)
                previous = model.head.predict(decoded, memory)[:, 0]
                torch.testing.assert_close(found[row, position], previous[0], atol=1e-5, rtol=0)


def replace_side(one):
    from itda.batch import pad_vectors

    return pad_vectors([one])


def test_prediction_takes_a_tensor_lists_and_arrays(vectors):
    source = torch.randn(2, 4, 3)
    expected = vectors.predict(source, 3)
    for same in (source.numpy(), list(source), source.tolist(), list(source.double().numpy())):
        torch.testing.assert_close(vectors.predict(same, 3), expected)


@pytest.mark.parametrize(
    ("series", "length", "message"),
    [
        (torch.zeros(2, 4, 5), 3, "this model reads data.src_dim = 3"),
        (torch.zeros(4, 3), 3, r"shape \(3,\)"),
        (torch.zeros(1, 4, 3), 0, "length is 0"),
        ([], 3, "no source"),
        ([torch.zeros(0, 3)], 3, "at least one position"),
    ],
)
def test_prediction_refuses_what_it_cannot_read(vectors, series, length, message):
    with pytest.raises(UserError, match=message):
        vectors.predict(series, length)


def test_each_kind_of_model_says_what_it_is_for(vectors, looking):
    with pytest.raises(UserError, match="use predict"):
        vectors.generate(["a dog"])
    with pytest.raises(UserError, match="use predict"):
        vectors.score([("a", "b")])
    with pytest.raises(UserError, match="use generate"):
        looking.predict(torch.zeros(1, 4, 3), 3)


def test_generating_warns_of_nothing_else(looking):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        looking.generate(TALK[:3])
