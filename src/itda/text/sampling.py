"""Subword sampling with a generator of our own: the same random.Random gives the same pieces in every process.

sentencepiece samples with a hidden generator for each thread, so its draws could not be resumed.
"""

from __future__ import annotations

import math
import random
from bisect import bisect_left
from collections.abc import Mapping

Lattice = tuple[tuple[tuple[int, ...], tuple[float, ...]], ...]  # for each end: starts, and their cumulative weights


def bpe_dropout(word: str, scores: Mapping[str, float], rate: float, random: random.Random) -> list[str]:
    """Merge a word by BPE where each possible merge is left out of each step with probability `rate`.

    Provilkov et al. 2020, algorithm 1. A merge that would not win the step anyway needs no coin.
    """
    pieces = list(word)
    lowest = -math.inf
    while len(pieces) > 1:
        best, best_score = -1, lowest
        for position in range(len(pieces) - 1):
            score = scores.get(pieces[position] + pieces[position + 1], lowest)
            if score > best_score and random.random() >= rate:
                best, best_score = position, score
        if best < 0:
            break
        pieces[best : best + 2] = [pieces[best] + pieces[best + 1]]
    return pieces


def word_lattice(word: str, scores: Mapping[str, float], longest: int, unseen: float, alpha: float) -> Lattice:
    """Sum, for each end of a piece in `word`, the weights P(prefix)^alpha by where that piece starts."""
    forward, lattice = [0.0], []
    for end in range(1, len(word) + 1):
        starts, logs = [], []
        for start in range(max(0, end - longest), end):
            score = scores.get(word[start:end])
            if score is None and start == end - 1:
                score = unseen
            if score is not None:
                starts.append(start)
                logs.append(forward[start] + alpha * score)
        top, total, cumulative = max(logs), 0.0, []
        for value in logs:
            total += math.exp(value - top)
            cumulative.append(total)
        forward.append(top + math.log(total))
        lattice.append((tuple(starts), tuple(cumulative)))
    return tuple(lattice)


def sample_lattice(word: str, lattice: Lattice, random: random.Random) -> list[str]:
    """Draw a segmentation with probability proportional to P(segmentation)^alpha (Kudo 2018), last piece first."""
    pieces, end = [], len(word)
    while end:
        starts, cumulative = lattice[end - 1]
        drawn = bisect_left(cumulative, random.random() * cumulative[-1]) if len(starts) > 1 else 0
        start = starts[min(drawn, len(starts) - 1)]
        pieces.append(word[start:end])
        end = start
    return pieces[::-1]
