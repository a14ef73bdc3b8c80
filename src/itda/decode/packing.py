"""Which sentences are decoded together: those of similar length, as many as make one good-sized step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

TOKENS = 10_000  # rows x source tokens of a batch
LEAST = 1_500  # of a batch of several workers, though some of many stand idle: a batch takes about as many by itself


def pack(
    lengths: Sequence[int], rows: int, *, workers: int = 1, count: int | None = None, tokens: int = TOKENS
) -> Iterator[list[int]]:
    """Put the places of sentences of these lengths into batches, the longest sentences first.

    A sentence has so many `rows`. A batch has rows x longest length of no more than `tokens`, one sentence aside, and
    no more than `count` sentences where that is given. Where several workers share them, a batch has no more than an
    equal share of what is left: large ones first, and in the end small ones, so that all are done at about one time.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    held, left = list[int](), sum(lengths) * rows
    for place in order:
        longest = lengths[held[0]] if held else 0
        most = tokens if workers == 1 else min(tokens, max(LEAST, left // workers))
        if held and (len(held) == count or (len(held) + 1) * rows * longest > most):
            yield held
            left -= sum(lengths[one] for one in held) * rows
            held = []
        held.append(place)
    if held:
        yield held
