"""Validation: the likelihood of the validation pairs under teacher forcing, and what the model writes on its own."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch

from itda.batch import Batch
from itda.evaluate.metrics import text_metrics
from itda.seq2seq import Seq2Seq

DECODED_METRICS = ("bleu", "chrf", "exact_match")


@torch.no_grad()
def likelihood_metrics(seq2seq: Seq2Seq, batches: Iterator[Batch]) -> dict[str, float]:
    """Loss (nats a target token, or squared error), perplexity and token accuracy; empty without validation pairs."""
    nll = correct = count = 0.0
    model = seq2seq.model.eval()
    for batch in batches:
        scores, right = model.scores(batch.to(seq2seq.device))
        nll, correct = nll + float(scores.double().sum()), correct + int(right.sum())
        count += batch.num_targets
    if not count:
        return {}
    metrics = {"loss": nll / count}
    if seq2seq.config.data.kind == "text":
        metrics |= {"perplexity": math.exp(min(nll / count, 700.0)), "token_accuracy": correct / count}
    return metrics


def decoded_metrics(seq2seq: Seq2Seq, pairs: Sequence[tuple[str, str]]) -> dict[str, float]:
    """BLEU, chrF and exact match of greedy outputs, without any teacher forcing."""
    # There is no shortlist before training has ended.
    greedy = seq2seq.generate_lazily((src for src, _ in pairs), beam_size=1, diverse_groups=1, shortlist="off")
    hypotheses = [one.text for one in greedy]
    found = {metric.name: metric.score for metric in text_metrics(hypotheses, [tgt for _, tgt in pairs])}
    return {name: found[name] for name in DECODED_METRICS}
