"""One system measured on one test set: every metric with its interval, by source length too, and what to beware of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from itda.evaluate.bootstrap import CONFIDENCE, RESAMPLES, Estimate, estimate
from itda.evaluate.buckets import BucketScores, buckets_by_length
from itda.evaluate.metrics import (
    LIKELIHOOD_METRICS,
    TEXT_METRICS,
    Likelihood,
    Metric,
    SentenceScore,
    check_counts,
    likelihood_metrics,
    text_metrics,
)
from itda.evaluate.writing import script_of

FEW_SENTENCES = 30


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found; `main` names the metric to read first, `notes` are sentences for people."""

    sentences: int
    estimates: dict[str, Estimate]
    by_length: tuple[BucketScores, ...]
    main: str
    notes: tuple[str, ...]
    resamples: int
    confidence: float
    seed: int

    def __getitem__(self, name: str) -> Estimate:
        """Give the estimate of a metric by its name."""
        return self.estimates[name]

    def to_json(self) -> dict[str, Any]:
        """Give everything as plain values; a metric that was not measured is None, and no value is nan."""
        scores = {
            name: self.estimates[name].to_json() if name in self.estimates else None
            for name in (*TEXT_METRICS, *LIKELIHOOD_METRICS)
        }
        return {
            **scores,
            "by_length": [bucket.to_json() for bucket in self.by_length],
            "sentences": self.sentences,
            "main": self.main,
            "notes": list(self.notes),
            "resamples": self.resamples,
            "confidence": self.confidence,
            "seed": self.seed,
        }


@runtime_checkable
class _Hypothesis(Protocol):
    @property
    def text(self) -> str: ...


@runtime_checkable
class Model(Protocol):
    """What is measured; `Seq2Seq` is one."""

    def generate(self, texts: Sequence[str], *, beam_size: int) -> Sequence[_Hypothesis]:
        """Translate each text."""

    def score(self, pairs: Sequence[tuple[str, str]]) -> Sequence[SentenceScore]:
        """Say how likely each target is, with teacher forcing."""


def evaluate(
    hypotheses: Sequence[str],
    references: Sequence[str],
    sources: Sequence[str] | None = None,
    *,
    likelihood: Likelihood | None = None,
    tokenize: str | None = None,
    edges: Sequence[int] | int | None = None,
    resamples: int = RESAMPLES,
    confidence: float = CONFIDENCE,
    seed: int = 1,
) -> Evaluation:
    """Measure hypotheses against references; with `sources` by length too, with `likelihood` perplexity and its kin.

    BLEU, chrF and TER run from 0 to 100 (TER above it where more is wrong than there is), exact match and token
    accuracy from 0 to 1. Intervals are percentiles over `resamples` seeded draws of the sentences.
    """
    metrics = text_metrics(hypotheses, references, tokenize=tokenize)
    if likelihood is not None:
        check_counts(hypotheses=hypotheses, likelihoods=likelihood.nll)
        metrics += likelihood_metrics(likelihood)
    found = estimate(metrics, resamples=resamples, confidence=confidence, seed=seed)
    by_length = []
    if sources is not None:
        check_counts(hypotheses=hypotheses, sources=sources)
        unit, buckets = buckets_by_length(sources, edges)
        for number, bucket in enumerate(buckets):
            kept = [metric.take(bucket.rows) for metric in metrics]
            scores = estimate(kept, resamples=resamples, confidence=confidence, seed=(seed, number))
            by_length.append(BucketScores(bucket.low, bucket.high, bucket.label, unit, len(bucket.rows), scores))
    script = script_of(references)
    return Evaluation(
        sentences=len(references),
        estimates=found,
        by_length=tuple(by_length),
        main="bleu" if script == "spaced" else "chrf",
        notes=tuple(_notes(script, hypotheses, metrics, found)),
        resamples=resamples,
        confidence=confidence,
        seed=seed,
    )


def evaluate_model(
    model: Model, pairs: Sequence[tuple[str, str]], *, beam_size: int = 5, **settings: Any
) -> tuple[Evaluation, list[str]]:
    """Translate the sources and measure the result; the answer holds the hypotheses too.

    `settings` are those of `evaluate`.
    """
    check_counts(pairs=pairs)
    sources, references = [src for src, _ in pairs], [tgt for _, tgt in pairs]
    hypotheses = [hypothesis.text for hypothesis in model.generate(sources, beam_size=beam_size)]
    likelihood = Likelihood.of(model.score(pairs), references)
    return evaluate(hypotheses, references, sources, likelihood=likelihood, **settings), hypotheses


def _notes(script: str, hypotheses: Sequence[str], metrics: Sequence[Metric], found: dict[str, Estimate]) -> list[str]:
    notes = []
    bleu = metrics[0]
    if script != "spaced":
        tokenizer = dict(part.split(":", 1) for part in bleu.signature.split("|"))["tok"]
        notes.append(
            f"The references are mostly {script.capitalize()}: read chrF first. BLEU (tokenizer {tokenizer}) counts "
            "other units than in a language with the usual words; compare it only under the same signature."
        )
    spaced_stops = sum(hypothesis.endswith(" .") for hypothesis in hypotheses)
    if spaced_stops > len(hypotheses) / 2 and "tok:none" not in bleu.signature:
        notes.append(
            f"{spaced_stops} of {len(hypotheses)} hypotheses end in ' .', as if tokenised: BLEU 13a is for raw text; "
            "give raw text, or tokenize=none and compare only with others that do."
        )
    if bleu.stats.sum(axis=0)[-1] == 0:
        notes.append("No hypothesis has four words, so BLEU is 0 by its definition; read chrF and exact match.")
    if len(hypotheses) < FEW_SENTENCES:
        notes.append(
            f"Fewer than {FEW_SENTENCES} sentences ({len(hypotheses)}): an interval from so few is too narrow to trust."
        )
    if found["exact_match"].score == 1.0:
        notes.append(
            f"Every sentence is right, so no resampling shows a doubt; by the rule of three a true share of "
            f"{max(0.0, 1 - 3 / len(hypotheses)):.3f} would still do so once in twenty times."
        )
    for name, values in found.items():
        if values.score is None:
            notes.append(f"{name} is infinite, or has nothing to divide by: no number stands for it.")
    return notes
