"""The score of one sentence by itself, from 0 to 1: what minimum-risk training pays for."""

from __future__ import annotations

import functools

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from itda.evaluate.metrics import bleu_tokenizer

SENTENCE_METRICS = ("bleu", "chrf", "rouge_l")


def sentence_score(metric: str, hypothesis: str, reference: str) -> float:
    """Score one text against one reference, cased.

    BLEU is sacrebleu's sentence BLEU (orders that a short text lacks are left out, counts of 0 are smoothed
    exponentially: Chen and Cherry 2014), chrF sacrebleu's, ROUGE-L the F1 of the longest common subsequence of
    words (Lin 2004). Where the reference is written without spaces, BLEU's and ROUGE's words are characters.
    """
    if metric == "chrf":
        return float(_chrf().sentence_score(hypothesis, [reference]).score) / 100
    tokenize = bleu_tokenizer([reference])
    if metric == "bleu":
        return float(_bleu(tokenize).sentence_score(hypothesis, [reference]).score) / 100
    assert metric == "rouge_l", metric
    return rouge_l(_words(hypothesis, tokenize), _words(reference, tokenize))


def rouge_l(hypothesis: list[str], reference: list[str]) -> float:
    """2 L / (m + n), with L the length of the longest common subsequence."""
    lengths = [0] * (len(reference) + 1)
    for word in hypothesis:
        left = 0  # the entry up and to the left of the one that is written
        for place, wanted in enumerate(reference, start=1):
            above = lengths[place]
            lengths[place] = left + 1 if word == wanted else max(above, lengths[place - 1])
            left = above
    total = len(hypothesis) + len(reference)
    return 2 * lengths[-1] / total if total else 1.0


def _words(text: str, tokenize: str) -> list[str]:
    return text.split() if tokenize == "13a" else list("".join(text.split()))


@functools.cache
def _bleu(tokenize: str) -> BLEU:
    return BLEU(tokenize=tokenize, effective_order=True)


@functools.cache
def _chrf() -> CHRF:
    return CHRF()
