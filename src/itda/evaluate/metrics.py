"""Metrics as sums: what each sentence contributes, and the formula from the summed contributions to a score.

BLEU, chrF and TER are sacrebleu's, both the contributions and the formula. Since every metric here is a function
of sums, a resampled corpus costs one matrix product; see `bootstrap` and `significance`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from itda.errors import UserError
from itda.evaluate.writing import normalized, script_of

TEXT_METRICS = ("bleu", "chrf", "ter", "exact_match")
LIKELIHOOD_METRICS = ("token_accuracy", "perplexity", "bits_per_character")
# sacrebleu's spm and flores tokenizers are left out: they fetch a file from the network on first use.
BLEU_TOKENIZERS = ("13a", "char", "intl", "zh", "none", "ja-mecab", "ko-mecab")
_TOKENIZER_OF_SCRIPT = {"han": "zh", "kana": "char", "thai": "char"}


@dataclass(frozen=True, eq=False)
class Metric:
    """One metric of one system: a row of `stats` for each sentence, and `formula` from their sum to the score."""

    name: str
    signature: str
    stats: Float[np.ndarray, "sentences columns"]
    formula: Callable[[Sequence[float]], float]
    higher_is_better: bool = True

    @property
    def score(self) -> float:
        """The score of all sentences; infinite where the metric has no finite value."""
        return self.formula(self.stats.sum(axis=0).tolist())

    def take(self, rows: Int[np.ndarray, " kept"]) -> Metric:
        """Keep some sentences."""
        return replace(self, stats=self.stats[rows])


@runtime_checkable
class SentenceScore(Protocol):
    """What `Seq2Seq.score` says of a pair."""

    @property
    def nll(self) -> float:
        """The negative log-likelihood of the target in nats, eos included."""

    @property
    def tokens(self) -> int:
        """The number of target tokens, eos included."""

    @property
    def correct(self) -> int:
        """How many of them the model ranked first."""


@dataclass(frozen=True)
class Likelihood:
    """Sums of each sentence under teacher forcing: nats, tokens ranked first, tokens, reference characters.

    Both `nll` and `tokens` count eos: a model pays for knowing where to stop. `characters` does not, so that it
    depends on the text alone.
    """

    nll: Sequence[float]
    correct: Sequence[int]
    tokens: Sequence[int]
    characters: Sequence[int]

    @classmethod
    def of(
        cls, scores: Iterable[SentenceScore], references: Sequence[str], normalize: Callable[[str], str] = normalized
    ) -> Likelihood:
        """Gather what a model says of its pairs, and count the characters of the normalised references."""
        rows = [(float(score.nll), int(score.correct), int(score.tokens)) for score in scores]
        check_counts(scores=rows, references=references)
        nll, correct, tokens = map(list, zip(*rows, strict=True))
        return cls(nll, correct, tokens, [len(normalize(reference)) for reference in references])

    def __post_init__(self) -> None:
        check_counts(nll=self.nll, correct=self.correct, tokens=self.tokens, characters=self.characters)
        for number, value in enumerate(self.nll, start=1):
            if math.isnan(value):
                raise UserError(
                    f"the negative log-likelihood of pair {number} is nan; it must be a number; "
                    "the model is damaged or its training diverged: evaluate an earlier checkpoint."
                )
        assert min(self.tokens) >= 1, "tokens counts eos, so it is 1 or more"


def check_counts(**columns: Sequence[Any]) -> None:
    """Refuse lists of unequal length, naming both counts, and empty ones."""
    (first, values), *others = ((name.replace("_", " "), values) for name, values in columns.items())
    for name, others_values in others:
        if len(others_values) != len(values):
            raise UserError(
                f"got {len(values)} {first} and {len(others_values)} {name}; the counts must be equal; "
                "give one line for each sentence, a blank one where there is nothing."
            )
    if not values:
        raise UserError(f"got 0 {first}; evaluation needs 1 or more; give at least one sentence.")


def text_metrics(
    hypotheses: Sequence[str],
    references: Sequence[str],
    names: Sequence[str] = TEXT_METRICS,
    tokenize: str | None = None,
) -> list[Metric]:
    """Score texts against references, one each, with the named metrics; all are cased.

    `tokenize` is BLEU's tokenizer; None means 13a, but zh for Chinese and char for other languages that are
    written without spaces, where TER's words are single characters too. Exact match compares NFC text without its
    outer white space.
    """
    check_counts(hypotheses=hypotheses, references=references)
    builders: dict[str, Callable[[], Metric]] = {
        "bleu": lambda: _sacrebleu_metric("bleu", _bleu(tokenize, references), hypotheses, references),
        "chrf": lambda: _sacrebleu_metric("chrf", CHRF(), hypotheses, references),
        "ter": lambda: _sacrebleu_metric("ter", _ter(script_of(references)), hypotheses, references),
        "exact_match": lambda: _exact_match(hypotheses, references),
    }
    for name in names:
        if name not in builders:
            raise UserError(f"unknown metric {name!r}; allowed: {', '.join(builders)}; choose among these.")
    return [builders[name]() for name in names]


def likelihood_metrics(likelihood: Likelihood) -> list[Metric]:
    """Score a model by what it thought of the references, each given the true prefix (teacher forcing).

    Token accuracy is the share of tokens ranked first; perplexity is exp(nats per token); both depend on the
    vocabulary. Bits per character, nll / ln 2 / characters, do not, as long as no token is <unk>: an unknown word
    costs no more than its mark. All three count eos (in the characters, it has no place).
    """
    nll = np.asarray(likelihood.nll, dtype=np.float64)
    # A target that the model holds for impossible costs infinitely; counted apart, sums stay numbers.
    impossible = np.isinf(nll)
    nats = np.column_stack([np.where(impossible, 0.0, nll), impossible])
    correct, tokens, characters = (
        np.asarray(column, dtype=np.float64)
        for column in (likelihood.correct, likelihood.tokens, likelihood.characters)
    )
    return [
        Metric("token_accuracy", "teacher-forced|eos:yes", np.column_stack([correct, tokens]), _share),
        Metric("perplexity", "teacher-forced|eos:yes|per:token", np.column_stack([nats, tokens]), _perplexity, False),
        Metric(
            "bits_per_character",
            "teacher-forced|eos:yes|per:character",
            np.column_stack([nats, characters]),
            _bits_per_character,
            False,
        ),
    ]


def _sacrebleu_metric(name: str, scorer: Any, hypotheses: Sequence[str], references: Sequence[str]) -> Metric:
    # sacrebleu offers no public way to per-sentence statistics; a test holds these two to corpus_score.
    stats = np.asarray(scorer._extract_corpus_statistics(list(hypotheses), [list(references)]), dtype=np.float64)
    return Metric(
        name,
        str(scorer.get_signature()),
        stats,
        lambda sums: float(scorer._compute_score_from_stats(list(sums)).score),
        higher_is_better=name != "ter",
    )


def bleu_tokenizer(references: Sequence[str]) -> str:
    """Name the tokenizer that BLEU uses for such references where none is asked for."""
    return _TOKENIZER_OF_SCRIPT.get(script_of(references), "13a")


def _bleu(tokenize: str | None, references: Sequence[str]) -> BLEU:
    chosen = bleu_tokenizer(references) if tokenize is None else tokenize
    if chosen not in BLEU_TOKENIZERS:
        raise UserError(
            f"unknown BLEU tokenizer {chosen!r}; allowed: {', '.join(BLEU_TOKENIZERS)}; choose among these."
        )
    try:
        return BLEU(tokenize=chosen, force=True)
    except RuntimeError as error:
        extra = chosen.removesuffix("-mecab")
        raise UserError(
            f"BLEU tokenizer {chosen!r} needs a package that is not installed; allowed without it: "
            f"{', '.join(BLEU_TOKENIZERS[:5])}; run: pip install 'sacrebleu[{extra}]'."
        ) from error


def _ter(script: str) -> TER:
    unspaced = script in _TOKENIZER_OF_SCRIPT
    return TER(case_sensitive=True, normalized=unspaced, asian_support=unspaced)


def _exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> Metric:
    equal = [
        float(normalized(hypothesis).strip() == normalized(reference).strip())
        for hypothesis, reference in zip(hypotheses, references, strict=True)
    ]
    stats = np.column_stack([equal, np.ones(len(equal))])
    return Metric("exact_match", "case:mixed|norm:nfc", stats, _share)


def _share(sums: Sequence[float]) -> float:
    part, whole = sums
    return part / whole


def _perplexity(sums: Sequence[float]) -> float:
    nats, impossible, tokens = sums
    if impossible:
        return math.inf
    try:
        return math.exp(nats / tokens)
    except OverflowError:
        return math.inf


def _bits_per_character(sums: Sequence[float]) -> float:
    nats, impossible, characters = sums
    if impossible or (characters == 0 and nats > 0):
        return math.inf
    return nats / math.log(2) / characters if characters else 0.0
