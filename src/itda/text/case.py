"""The one factor that needs no annotation: how a word is written, lower, title, upper or mixed.

What a tokenizer sees of a word, and its case, give the word back exactly: where lower-casing would lose more than the
case can restore (McDonald, ß), the word is `mixed` and stays as it is.
"""

from __future__ import annotations

import functools

CASES = ("lower", "title", "upper", "mixed")


@functools.lru_cache(maxsize=1 << 16)
def split_case(word: str) -> tuple[str, str]:
    """Take the case off a word: what is left, and the case."""
    folded = word.lower()
    for case in CASES[:3]:
        if recase(folded, case) == word:
            return folded, case
    return word, CASES[3]


def recase(word: str, case: str) -> str:
    """Write a word in a case: title raises its first letter, wherever it stands; lower and mixed leave it."""
    if case == "upper":
        return word.upper()
    if case == "title":
        place = next((place for place, char in enumerate(word) if char.upper() != char), len(word))
        return word[:place] + word[place : place + 1].upper() + word[place + 1 :]
    return word
