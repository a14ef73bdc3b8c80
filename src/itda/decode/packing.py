"""Which sentences are decoded together: those of similar length, as many as make one good-sized step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

TOKENS = 10_000  # rows x source tokens of a batch
TURNS = 3  # batches of each worker, at the least
LEAST = 2_000  # and no fewer, though some of many cores stand idle: a batch of its own takes about as many


def pack(
    lengths: Sequence[int], rows: int, *, workers: int = 1, count: int | None = None, tokens: int = TOKENS
) -> Iterator[list[int]]:
    """Put the places of sentences of these lengths into batches, the longest sentences first.

    A sentence has so many `rows`. A batch has rows x longest length of no more than `tokens`, one sentence aside, and
    no more than `count` sentences where that is given. Where several workers share few sentences, each has some.
    """
    order = sorted(range(len(lengths)), key=lambda place: -lengths[place])
    if workers > 1:
        tokens = min(tokens, max(LEAST, sum(lengths) * rows // (TURNS * workers)))
    held = list[int]()
    for place in order:
        longest = lengths[held[0]] if held else 0
        if held and (len(held) == count or (len(held) + 1) * rows * longest > tokens):
            yield held
            held = []
        held.append(place)
    if held:
        yield held
