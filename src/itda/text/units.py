"""Which tokens spell a word or a character of a text: how a link between words becomes links between tokens."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

from itda.text.tokenizer import Tokenizer

UNITS = ("words", "characters", "tokens")
Span = tuple[int, int]  # from, and up to


def count_units(text: str, unit: str, tokens: int) -> int:
    """Count the words (between white space) or the characters of a raw text, or its tokens."""
    return {"words": len(text.split()), "characters": len(text), "tokens": tokens}[unit]


def unit_spans(tokenizer: Tokenizer, text: str, unit: str) -> list[Span] | None:
    """Find the tokens of `encode(text)` that each word or character of the raw text is spelled with.

    None where the tokenizer's normalisation joins or parts units, so that no position may be trusted.
    """
    parts = tokenizer.parts(text)
    if unit == "tokens":
        return [(place, place + 1) for place in range(len(parts))]
    found = _normalized_units(tokenizer, text, unit)
    spelled = b"".join(raw for _, raw in parts).decode("utf-8", "replace")
    plain = tokenizer.normalize(text)
    gap = len(spelled) - len(plain)  # the space in front that a tokenizer may add
    if found is None or gap not in (0, 1):
        return None
    ends = list(accumulate(len(raw) for _, raw in parts))  # in bytes
    places = [0, *accumulate(len(character.encode("utf-8", "replace")) for character in spelled)]
    return [tokens_within(ends, places[start + gap], places[end + gap]) for start, end in found]


def tokens_within(ends: Sequence[int], start: int, end: int) -> Span:
    """Find the tokens, given by where each ends, that have a share in the bytes from `start` to `end`."""
    return (bisect_right(ends, start), bisect_left(ends, end) + 1) if end > start else (0, 0)


def respelled(before: Sequence[bytes], after: Sequence[bytes]) -> list[Span]:
    """Find for each token of one spelling of a text the tokens of another that spell the same.

    Spaces are left out: whether the one before a word is a token of its own says nothing.
    """
    ends, other_ends = (list(accumulate(map(len, pieces))) for pieces in (before, after))
    starts = [end - len(piece) + piece.startswith(b" ") for piece, end in zip(before, ends, strict=True)]
    return [tokens_within(other_ends, start, end) for start, end in zip(starts, ends, strict=True)]


def _normalized_units(tokenizer: Tokenizer, text: str, unit: str) -> list[Span] | None:
    """Find where the units of a raw text stand in the normalised one, in characters."""
    plain = tokenizer.normalize(text)
    if unit == "characters":
        ends = [0, *accumulate(len(tokenizer.normalize(character)) for character in text)]
        whole = "".join(map(tokenizer.normalize, text)) == plain
        return list(pairwise(ends)) if whole else None
    words, place, spans = [tokenizer.normalize(word) for word in text.split()], 0, []
    if words != plain.split():
        return None
    for word in words:
        place = plain.index(word, place)
        spans.append((place, place + len(word)))
        place += len(word)
    return spans
