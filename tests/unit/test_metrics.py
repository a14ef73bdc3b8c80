"""Scores are sacrebleu's, intervals are seeded percentiles, and what cannot be said is never nan."""

import io
import json
import math
import random
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from itda.errors import UserError
from itda.evaluate.bootstrap import estimate, interval, resampled_scores, resampled_sums
from itda.evaluate.buckets import buckets_by_length
from itda.evaluate.evaluation import evaluate, evaluate_model
from itda.evaluate.metrics import Likelihood, Metric, likelihood_metrics, text_metrics
from itda.evaluate.report import evaluation_tables
from itda.evaluate.writing import length_unit, script_of, text_length

SACREBLEU = {
    "bleu": lambda: BLEU(tokenize="13a", force=True),
    "chrf": CHRF,
    "ter": lambda: TER(case_sensitive=True),
}
WORDS = ["a", "dog", "runs", "on", "the", "beach", "Dog", ",", "Straße", "개가", "달린다."]
SENTENCE = st.lists(st.sampled_from(WORDS), max_size=9).map(" ".join)
PAIRS = st.lists(st.tuples(SENTENCE, SENTENCE), min_size=1, max_size=8)


def noisy(references, seed, error=0.25):
    """Outputs of a pretended system: references with words lost and changed."""
    dice = random.Random(seed)
    changed = []
    for reference in references:
        words = [dice.choice(WORDS) if dice.random() < error else word for word in reference.split()]
        changed.append(" ".join(word for word in words if dice.random() > error / 3))
    return changed


def corpus(count, seed=0):
    dice = random.Random(seed)
    return [" ".join(dice.choice(WORDS) for _ in range(dice.randint(1, 20))) for _ in range(count)]


def likelihood_of(count, seed=0):
    dice = random.Random(seed)
    tokens = [dice.randint(1, 20) for _ in range(count)]
    return Likelihood(
        nll=[dice.uniform(0.1, 3.0) * n for n in tokens],
        correct=[dice.randint(0, n) for n in tokens],
        tokens=tokens,
        characters=[4 * n for n in tokens],
    )


@pytest.mark.parametrize("name", list(SACREBLEU))
@given(pairs=PAIRS)
@settings(deadline=None, max_examples=40)
def test_point_estimate_is_exactly_what_sacrebleu_says(name, pairs):
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    scorer = SACREBLEU[name]()
    if name == "bleu" and script_of(references) != "spaced":
        assert script_of(references) == "hangul"  # and there 13a is the choice too
    [metric] = text_metrics(hypotheses, references, [name])
    assert metric.score == scorer.corpus_score(hypotheses, [references]).score
    assert metric.signature == str(scorer.get_signature())


def test_point_estimate_on_real_text(corpora):
    import gzip

    with gzip.open(corpora / "multi30k_en_de" / "test.tsv.gz", "rt", encoding="utf-8", newline="\n") as lines:
        references = [line.rstrip("\n").split("\t")[1] for line in lines][:150]
    hypotheses = noisy(references, 1)
    for metric in text_metrics(hypotheses, references, list(SACREBLEU)):
        assert metric.score == SACREBLEU[metric.name]().corpus_score(hypotheses, [references]).score


def test_signatures_say_cased_and_13a():
    bleu, chrf, ter, _ = text_metrics(["A dog."], ["A dog."])
    assert "case:mixed" in bleu.signature
    assert "tok:13a" in bleu.signature
    assert "case:mixed" in chrf.signature
    assert "case:mixed" in ter.signature
    [lower] = text_metrics(["a dog runs on the beach"], ["A DOG RUNS ON THE BEACH"], ["bleu"])
    assert lower.score == 0.0


def test_all_correct_and_all_wrong():
    references = corpus(20)
    right = evaluate(references, references, likelihood=Likelihood([0.0] * 20, [3] * 20, [3] * 20, [9] * 20))
    expected = {"ter": 0.0, "exact_match": 1.0, "token_accuracy": 1.0, "perplexity": 1.0, "bits_per_character": 0.0}
    for name, found in right.estimates.items():
        wanted = expected.get(name, 100.0)
        assert found.score == found.low == found.high == pytest.approx(wanted), name
    wrong = evaluate([""] * 20, references)
    assert wrong["bleu"].score == wrong["chrf"].score == wrong["exact_match"].score == 0.0
    assert wrong["ter"].score == 100.0


def test_likelihood_formulas_by_hand():
    accuracy, perplexity, bits = likelihood_metrics(Likelihood([2.0, 4.0], [1, 3], [2, 4], [5, 7]))
    assert accuracy.score == 4 / 6
    assert perplexity.score == pytest.approx(math.exp(6.0 / 6))
    assert bits.score == pytest.approx(6.0 / math.log(2) / 12)


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(2, 5))
@settings(deadline=None, max_examples=30)
def test_bits_per_character_knows_no_vocabulary(tokens, finer):
    """The same total nats over more, smaller tokens: perplexity falls, bits per character stay."""
    nll, characters = [1.5 * n for n in tokens], [3 * n for n in tokens]
    coarse = likelihood_metrics(Likelihood(nll, tokens, tokens, characters))
    fine = likelihood_metrics(Likelihood(nll, tokens, [finer * n for n in tokens], characters))
    assert fine[1].score < coarse[1].score
    assert fine[2].score == coarse[2].score


def test_likelihood_counts_normalised_characters():
    said = [SimpleNamespace(nll=1.0, tokens=2, correct=1)] * 2
    decomposed = "\u1112\u1161\u11ab"  # 한 in three code points
    assert Likelihood.of(said, [decomposed, "e\u0301a"]).characters == [1, 2]


# --- the bootstrap ---


def test_resampled_sums_are_those_of_drawn_corpora():
    """Sums come from whole corpora of the same size, drawn with replacement: the slow twin draws row by row."""
    stats = np.column_stack([10.0 ** np.arange(5), np.ones(5)])
    sums = resampled_sums(stats, 200, 3)
    slow = np.random.default_rng(3)
    for row in sums:
        assert np.array_equal(row, stats[slow.integers(5, size=5)].sum(axis=0))
    assert len(np.unique(sums[:, 0])) > 20


def test_chunks_change_nothing(monkeypatch):
    stats = np.arange(30.0).reshape(10, 3)
    whole = resampled_sums(stats, 101, 5)
    monkeypatch.setattr("itda.evaluate.bootstrap.CHUNK", 70)
    assert np.array_equal(whole, resampled_sums(stats, 101, 5))


def test_interval_is_seeded_and_holds_the_score():
    references = corpus(60)
    hypotheses = noisy(references, 2)
    first = evaluate(hypotheses, references, references, likelihood=likelihood_of(60))
    assert first == evaluate(hypotheses, references, references, likelihood=likelihood_of(60))
    other = evaluate(hypotheses, references, references, likelihood=likelihood_of(60), seed=2)
    for name, found in first.estimates.items():
        assert found.low < found.score < found.high, name
        assert (found.low, found.high) != (other[name].low, other[name].high), name
        assert found.score == other[name].score


def test_interval_of_a_share_is_the_known_one():
    """Exact match of 0.8 in 400: the normal approximation says 0.8 +- 1.96 * 0.02."""
    [metric] = text_metrics(["a"] * 320 + ["b"] * 80, ["a"] * 400, ["exact_match"])
    found = estimate([metric], resamples=4000)["exact_match"]
    assert found.low == pytest.approx(0.8 - 1.96 * 0.02, abs=0.005)
    assert found.high == pytest.approx(0.8 + 1.96 * 0.02, abs=0.005)


def test_interval_covers_the_truth_as_often_as_it_says():
    dice = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        right = (dice.random(80) < 0.6).astype(float)
        metric = Metric("m", "", np.column_stack([right, np.ones(80)]), lambda sums: sums[0] / sums[1])
        found = estimate([metric], resamples=400, confidence=0.9, seed=trial)["m"]
        covered += found.low <= 0.6 <= found.high
    assert 0.83 <= covered / 200 <= 0.96


def test_interval_cuts_both_ends_alike():
    assert interval(np.arange(1000.0)[::-1].copy(), 0.95) == (25.0, 974.0)
    assert interval(np.array([1.0, np.inf, 2.0, np.inf] * 10), 0.9) == (1.0, math.inf)


def test_more_sentences_give_a_narrower_interval():
    references = corpus(400)
    hypotheses = noisy(references, 3)
    widths = [
        [found.high - found.low for found in estimate(text_metrics(hypotheses[:count], references[:count])).values()]
        for count in (50, 400)
    ]
    assert all(wide > 1.8 * narrow for wide, narrow in zip(*widths, strict=True))


def test_all_metrics_see_the_same_draws():
    [metric] = text_metrics(["a", "b", "c"], ["a", "x", "c"], ["exact_match"])
    first, second = resampled_scores([metric, metric], 100, 1)
    assert np.array_equal(first, second)


@pytest.mark.parametrize(("resamples", "confidence"), [(39, 0.95), (0, 0.95), (1000, 1.0), (1000, 0.1)])
def test_settings_without_an_interval_are_refused(resamples, confidence):
    with pytest.raises(UserError, match="it must be"):
        evaluate(["a"], ["a"], resamples=resamples, confidence=confidence)


# --- languages, tokenizers ---


@pytest.mark.parametrize(
    ("text", "script", "tokenizer"),
    [
        ("Ein Hund läuft am Strand.", "spaced", "13a"),
        ("개가 바닷가를 달린다. `Ctrl` 키와 `Alt` 키를 누른다.", "hangul", "13a"),
        ("犬が浜辺を走っている。", "kana", "char"),
        ("一只狗在海滩上奔跑。", "han", "zh"),
        ("สุนัขวิ่งบนชายหาด", "thai", "char"),
        ("12:30", "spaced", "13a"),
    ],
)
def test_tokenizer_follows_the_script_of_the_references(text, script, tokenizer):
    assert script_of([text]) == script
    found = evaluate([text] * 40, [text] * 40)
    assert f"tok:{tokenizer}|" in found["bleu"].signature
    assert found.main == ("bleu" if script == "spaced" else "chrf")
    assert any("chrF first" in note for note in found.notes) == (script != "spaced")
    assert found["ter"].score == 0.0


def test_ter_of_unspaced_text_counts_characters():
    [metric] = text_metrics(["一只猫在海滩上奔跑"], ["一只狗在海滩上奔跑"], ["ter"])
    assert metric.score == pytest.approx(100 / 9)


@pytest.mark.parametrize("tokenize", ["13a", "char", "intl", "zh", "none"])
def test_tokenizer_can_be_chosen(tokenize):
    found = evaluate(["개가 달린다 ."], ["개가 달린다 ."], tokenize=tokenize)
    assert f"tok:{tokenize}|" in found["bleu"].signature


def test_unknown_tokenizer_names_the_allowed_ones():
    with pytest.raises(UserError, match=r"'mecab'; allowed: 13a, char, intl, zh, none"):
        evaluate(["a"], ["a"], tokenize="mecab")
    with pytest.raises(UserError, match="unknown metric 'rouge'; allowed: bleu"):
        text_metrics(["a"], ["a"], ["rouge"])


def test_missing_tokenizer_package_is_a_clear_error(monkeypatch):
    monkeypatch.setattr("sacrebleu.tokenizers.tokenizer_ko_mecab.MeCab", None)
    with pytest.raises(UserError, match=r"pip install 'sacrebleu\[ko\]'"):
        evaluate(["a"], ["a"], tokenize="ko-mecab")


# --- edge cases ---


def test_unequal_counts_name_both():
    with pytest.raises(UserError, match="got 2 hypotheses and 3 references"):
        evaluate(["a", "b"], ["a", "b", "c"])
    with pytest.raises(UserError, match="got 2 hypotheses and 1 sources"):
        evaluate(["a", "b"], ["a", "b"], ["a"])
    with pytest.raises(UserError, match="got 2 hypotheses and 3 likelihoods"):
        evaluate(["a", "b"], ["a", "b"], likelihood=likelihood_of(3))
    with pytest.raises(UserError, match="got 1 nll and 2 correct"):
        Likelihood([1.0], [1, 1], [1], [1])


def test_empty_lists_are_refused():
    with pytest.raises(UserError, match="got 0 hypotheses"):
        evaluate([], [])
    with pytest.raises(UserError, match="got 0 scores"):
        Likelihood.of([], [])


def test_nan_names_its_pair():
    with pytest.raises(UserError, match="pair 2 is nan"):
        Likelihood([1.0, math.nan], [1, 1], [1, 1], [1, 1])


@given(
    pairs=PAIRS,
    nll=st.lists(st.sampled_from([0.0, 1.0, 1e6, math.inf]), min_size=8, max_size=8),
    characters=st.lists(st.sampled_from([0, 3]), min_size=8, max_size=8),
)
@settings(deadline=None, max_examples=40)
def test_json_never_holds_nan(pairs, nll, characters):
    count = len(pairs)
    likelihood = Likelihood(nll[:count], [0] * count, [1] * count, characters[:count])
    hypotheses, references = [h for h, _ in pairs], [r for _, r in pairs]
    found = evaluate(hypotheses, references, references, likelihood=likelihood, resamples=50)
    written = json.dumps(found.to_json(), allow_nan=False)
    assert json.loads(written)["sentences"] == count
    infinite = math.inf in nll[:count] or 1e6 in nll[:count]
    if math.inf in nll[:count]:
        assert found["perplexity"].score is None
        assert any("perplexity is infinite" in note for note in found.notes)
    if not infinite:
        assert found["perplexity"].score is not None


def test_json_has_every_key():
    written = evaluate(["a dog"], ["a dog"]).to_json()
    assert set(written["bleu"]) == {"score", "low", "high", "signature"}
    assert written["perplexity"] is None
    assert written["by_length"] == []
    metrics = {"bleu", "chrf", "ter", "exact_match", "token_accuracy", "perplexity", "bits_per_character"}
    assert metrics <= set(written)


def test_notes_warn_of_what_misleads():
    tokenised = evaluate(["a dog runs ."] * 40, ["a dog runs ."] * 40)
    assert any("as if tokenised" in note for note in tokenised.notes)
    raw = evaluate(["a dog runs."] * 40, ["a dog runs."] * 40, tokenize="none")
    assert any("No hypothesis has four words" in note for note in raw.notes)
    assert any("true share of 0.925" in note for note in raw.notes)
    assert any("Fewer than 30 sentences" in note for note in evaluate(["a"], ["a"]).notes)


# --- by length ---


@given(st.lists(SENTENCE, min_size=1, max_size=30), st.none() | st.integers(1, 6) | st.just([1, 4]))
@settings(deadline=None, max_examples=60)
def test_each_sentence_is_in_one_bucket(sources, edges):
    unit, buckets = buckets_by_length(sources, edges)
    rows = sorted(int(row) for bucket in buckets for row in bucket.rows)
    assert rows == list(range(len(sources)))
    for bucket in buckets:
        for row in bucket.rows:
            length = text_length(sources[row], unit)
            assert bucket.low <= length <= (math.inf if bucket.high is None else bucket.high)


def test_usual_buckets():
    sources = ["w " * count for count in (0, 1, 5, 6, 10, 11, 16, 21, 30, 31, 99)]
    unit, buckets = buckets_by_length(sources)
    assert unit == "words"
    assert [bucket.label for bucket in buckets] == ["0", "1-5", "6-10", "11-15", "16-20", "21-30", "31+"]
    assert [len(bucket.rows) for bucket in buckets] == [1, 2, 2, 1, 1, 2, 2]


def test_quantile_buckets_are_even():
    sources = ["w " * count for count in range(1, 101)]
    _, buckets = buckets_by_length(sources, 4)
    assert [len(bucket.rows) for bucket in buckets] == [25, 25, 25, 25]


def test_length_of_unspaced_text_is_in_characters():
    assert length_unit(["犬が走る"]) == "characters"
    assert length_unit(["개가 달린다"]) == "words"
    assert text_length("犬が 走る", "characters") == 4
    assert buckets_by_length(["一只狗在海滩上奔跑"])[1][0].label == "1-10"


@pytest.mark.parametrize("edges", [0, [5, 5], [0, 5], [10, 5]])
def test_bad_edges_are_refused(edges):
    with pytest.raises(UserError, match="must be 1 or more"):
        buckets_by_length(["a"], edges)


def test_bucket_scores_are_those_of_its_sentences():
    references = corpus(50)
    hypotheses = noisy(references, 4)
    found = evaluate(hypotheses, references, references)
    short = [(h, r) for h, r in zip(hypotheses, references, strict=True) if len(r.split()) <= 5]
    bucket = found.by_length[0]
    assert (bucket.label, bucket.sentences, bucket.unit) == ("1-5", len(short), "words")
    expected = CHRF().corpus_score([h for h, _ in short], [[r for _, r in short]]).score
    assert bucket.estimates["chrf"].score == expected
    assert bucket.estimates["chrf"].low < expected < bucket.estimates["chrf"].high


# --- faces ---


class Parrot:
    """A model that answers with the source."""

    def generate(self, texts, *, beam_size):
        return [SimpleNamespace(text=text) for text in texts]

    def score(self, pairs):
        return [SimpleNamespace(nll=2.0, tokens=4, correct=3) for _ in pairs]


def test_a_model_is_measured_whole():
    pairs = [("a dog", "a dog"), ("a cat", "a dog")] * 20
    found, hypotheses = evaluate_model(Parrot(), pairs, beam_size=2, resamples=100)
    assert hypotheses == [src for src, _ in pairs]
    assert found["exact_match"].score == 0.5
    assert found["perplexity"].score == pytest.approx(math.exp(0.5))
    assert found["bits_per_character"].score == pytest.approx(2.0 / math.log(2) / 5)


def test_tables_are_ascii_and_whole():
    references = corpus(30)
    found = evaluate(noisy(references, 5), references, references, likelihood=likelihood_of(30), resamples=100)
    console = Console(width=150, file=io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    with console.capture() as captured:
        for table in evaluation_tables(found):
            console.print(table)
    text = captured.get()
    text.encode("ascii")
    for word in ("BLEU", "chrF", "TER", "exact match", "perplexity", "bits per character", "16-20", "case:mixed", "["):
        assert word in text
