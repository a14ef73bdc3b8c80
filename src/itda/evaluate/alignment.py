"""Alignment error rate of attention: does it look where the gold alignment says?

Rows and outputs: row t of the weights is alpha_t, the attention that produced output y_t, and so belongs to target
position t. That holds for Bahdanau, whose alpha_t is computed from s_{t-1} *before* y_t is known, as for Luong, who
computes it from s_t; a plot or a score that shifts the rows by one measures the wrong thing.

The gold alignment speaks of the reference, so the weights must come from teacher forcing on the reference, or from
outputs that are equal to it. An eos that the weights carry on either side is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from itda.data.links import parse_links
from itda.errors import UserError

Link = tuple[int, int]
Span = tuple[int, int]


@dataclass(frozen=True)
class Gold:
    """The gold alignment of a sentence pair, links being (source position, target position).

    `sure` links must be found, `possible` ones (a superset) may be. `src_length` and `tgt_length` are the numbers
    of positions that the links count in: characters, or tokens after `to_tokens`.
    """

    sure: frozenset[Link]
    possible: frozenset[Link]
    src_length: int
    tgt_length: int

    def __post_init__(self) -> None:
        """Let the sure links be possible too, and refuse links that point outside."""
        object.__setattr__(self, "possible", self.possible | self.sure)
        for i, j in self.possible:
            if not (0 <= i < self.src_length and 0 <= j < self.tgt_length):
                raise UserError(
                    f"link {i}-{j} points outside a pair of {self.src_length} source and {self.tgt_length} target "
                    "positions; links are (source, target) and count from 0."
                )

    @classmethod
    def of(cls, src: str, tgt: str, sure: Iterable[Link], possible: Iterable[Link] = ()) -> Gold:
        """Take the links of a pair of texts, in characters."""
        return cls(frozenset(sure), frozenset(possible), len(src), len(tgt))

    @classmethod
    def parse(cls, line: str, src_length: int, tgt_length: int) -> Gold:
        """Read a Pharaoh line: `i-j` sure, `i?j` (or `ipj`) possible, counting from 0."""
        sure, possible = parse_links(line)
        return cls(frozenset(sure), frozenset(possible), src_length, tgt_length)

    def to_tokens(self, src_spans: Sequence[Span], tgt_spans: Sequence[Span]) -> Gold:
        """Lift links between characters to links between tokens, given as (start, end) in characters.

        Two tokens are linked where any of their characters are; surely, where surely. Characters that no token
        covers (a space that a tokenizer drops) take their links with them.
        """
        src_of = {i: token for token, (start, end) in enumerate(src_spans) for i in range(start, end)}
        tgt_of = {j: token for token, (start, end) in enumerate(tgt_spans) for j in range(start, end)}

        def lift(links: frozenset[Link]) -> frozenset[Link]:
            return frozenset((src_of[i], tgt_of[j]) for i, j in links if i in src_of and j in tgt_of)

        return Gold(lift(self.sure), lift(self.possible), len(src_spans), len(tgt_spans))


def token_spans(text: str, pieces: Sequence[str]) -> list[Span]:
    """Find where each token lies in `text`; sentencepiece's space mark "▁" stands for a space, or for nothing."""
    spans, position = [], 0
    for piece in pieces:
        plain = piece.replace("▁", " ")
        if not text.startswith(plain, position):
            plain = plain.strip(" ")
            while position < len(text) and text[position].isspace() and not text.startswith(plain, position):
                position += 1
        if not text.startswith(plain, position):
            raise UserError(f"token '{piece}' is not at character {position} of '{text}'; align the normalised text.")
        spans.append((position, position + len(plain)))
        position += len(plain)
    return spans


def hard_links(weights: Float[ndarray, "tgt src"], gold: Gold, *, threshold: float = 0.0) -> frozenset[Link]:
    """Link each target position to the source position it attends to most, if that weight reaches `threshold`.

    `weights` may have one row and one column more than the gold alignment has positions, for eos; they are cut
    off, and the best of the remaining columns is taken. Target positions that gold is silent about (the hyphens
    of a date) are not linked: attention must look somewhere, and there is no right place there.
    """
    weights = np.asarray(weights)
    allowed = [(gold.tgt_length + t, gold.src_length + s) for t in (0, 1) for s in (0, 1)]
    if weights.ndim != 2 or weights.shape not in allowed:
        raise UserError(
            f"attention weights have the shape {weights.shape}; it must be (target, source) = "
            f"{allowed[0]}, either with one more for eos."
        )
    best = weights[: gold.tgt_length, : gold.src_length]
    if not best.size:
        return frozenset()
    chosen = best.argmax(axis=1)
    return frozenset((int(chosen[j]), j) for j in _scored(gold) if best[j, chosen[j]] >= threshold)


def diagonal_links(gold: Gold) -> frozenset[Link]:
    """Link each target position to the source position at the same share of the length: a model-free baseline."""
    return frozenset((int((j + 0.5) * gold.src_length / gold.tgt_length), j) for j in _scored(gold))


def _scored(gold: Gold) -> list[int]:
    return sorted({j for _, j in gold.possible})


@dataclass(frozen=True)
class AlignmentScore:
    """Alignment error rate with a 95 % bootstrap interval over sentences, beside two baselines on the same gold.

    `precision` is the share of links that are possible, `recall` the share of sure links that were found (1 where
    there are none); `diagonal` and `uniform` are the error rates of the diagonal and of random choice.
    """

    error_rate: float
    low: float
    high: float
    precision: float
    recall: float
    diagonal: float
    uniform: float
    sentences: int
    links: int


def alignment_error(
    weights: Iterable[Float[ndarray, "_ _"]],  # each of its own size
    gold: Sequence[Gold],
    *,
    threshold: float = 0.0,
    resamples: int = 1000,
    seed: int = 1,
) -> AlignmentScore:
    """Score attention by AER = 1 - (|A & S| + |A & P|) / (|A| + |S|) over all sentences (Och & Ney 2003).

    A holds `hard_links`, S and P the sure and the possible links of gold.
    """
    links = [hard_links(matrix, sentence, threshold=threshold) for matrix, sentence in zip(weights, gold, strict=True)]
    counts = np.array([_counts(found, sentence) for found, sentence in zip(links, gold, strict=True)], dtype=float)
    if not counts.size or not counts[:, 2:].sum():
        raise UserError("there is no gold alignment to score against; give at least one pair with links.")
    draws = np.random.default_rng(seed).integers(len(gold), size=(resamples, len(gold)))
    rates = [_rate(counts[draw].sum(axis=0)) for draw in draws]
    hits, possible, found, sure = counts.sum(axis=0)
    diagonal = np.array([_counts(diagonal_links(sentence), sentence) for sentence in gold], dtype=float)
    uniform = np.array([_uniform_counts(sentence) for sentence in gold])
    low, high = np.nanquantile(rates or [_rate(counts.sum(axis=0))], [0.025, 0.975])
    return AlignmentScore(
        error_rate=_rate(counts.sum(axis=0)),
        low=float(low),
        high=float(high),
        precision=float(possible / found) if found else 1.0,
        recall=float(hits / sure) if sure else 1.0,
        diagonal=_rate(diagonal.sum(axis=0)),
        uniform=_rate(uniform.sum(axis=0)),
        sentences=len(gold),
        links=int(found),
    )


def _counts(links: frozenset[Link], gold: Gold) -> tuple[float, float, float, float]:
    """|A & S|, |A & P|, |A|, |S|."""
    return len(links & gold.sure), len(links & gold.possible), len(links), len(gold.sure)


def _uniform_counts(gold: Gold) -> tuple[float, float, float, float]:
    """What one uniformly drawn link for each scored target position is expected to count; |A| is certain."""
    share = 1 / max(1, gold.src_length)
    return len(gold.sure) * share, len(gold.possible) * share, len(_scored(gold)), len(gold.sure)


def _rate(counts: Float[ndarray, " counts"]) -> float:
    sure_found, possible_found, found, sure = counts
    return float(1 - (sure_found + possible_found) / (found + sure)) if found + sure else float("nan")
