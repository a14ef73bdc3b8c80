"""Words and their features in a text: `Häuser|NOUN|PL`, words between spaces, each followed by what is said of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from itda.config.extras import AUTOMATIC
from itda.errors import UserError
from itda.text.case import CASES, split_case

UNKNOWN, FIRST = 1, 2  # a value that training did not see, and a factor's first entry; 0: no word, so no value


@dataclass(frozen=True)
class Factor:
    """One feature of words: its name and its values, in the order of their numbers."""

    name: str
    entries: tuple[str, ...]

    @property
    def size(self) -> int:
        """Count the numbers that a value may have."""
        return FIRST + len(self.entries)

    @cached_property
    def numbers(self) -> dict[str, int]:
        """Find the number of each value."""
        return {entry: number for number, entry in enumerate(self.entries, FIRST)}

    def value(self, number: int) -> str:
        """Name the value of a number; empty where it has none."""
        return self.entries[number - FIRST] if number >= FIRST else ""


@dataclass(frozen=True)
class Annotation:
    """How words and features stand in a text: `names` of all factors in order, and what separates them."""

    names: tuple[str, ...]
    separator: str = "|"

    @property
    def given(self) -> tuple[str, ...]:
        """Name the factors that the text must hold."""
        return tuple(name for name in self.names if name not in AUTOMATIC)

    def split(self, text: str) -> tuple[list[str], list[tuple[str, ...]]]:
        """Cut a text at its spaces into words and their given features; UserError where a word has more or fewer."""
        if not self.given:
            return text.split(" "), [()] * (text.count(" ") + 1)
        words, features = list[str](), list[tuple[str, ...]]()
        for place, whole in enumerate(text.split(" "), start=1):
            word, *found = whole.split(self.separator) if whole else ("", *[""] * len(self.given))
            if len(found) != len(self.given) or (whole and not (word and all(found))):
                raise UserError(self._refusal(place, whole, found))
            words.append(word)
            features.append(tuple(found))
        return words, features

    def _refusal(self, place: int, whole: str, found: Sequence[str]) -> str:
        shape = self.separator.join(("word", *self.given))
        got = "an empty part" if len(found) == len(self.given) else f"{len(found)} features"
        return (
            f"word {place}, '{whole[:60]}', has {got}, and {len(self.given)} must follow each word: write {shape}, "
            f"with one space between words; no word may hold '{self.separator}' itself (data.factor_separator)."
        )

    def join(self, words: Sequence[str], features: Sequence[tuple[str, ...]]) -> str:
        """Write words and their given features as `split` reads them."""
        return " ".join(
            self.separator.join((word, *found)) if word else "" for word, found in zip(words, features, strict=True)
        )

    def values(self, word: str, given: Sequence[str]) -> tuple[str, list[str]]:
        """Give what the tokenizer is to see of a word, and the values of all its factors."""
        found, left = iter(given), word
        values = []
        for name in self.names:
            if name in AUTOMATIC:
                left, value = split_case(left)
                values.append(value)
            else:
                values.append(next(found))
        return left, values

    def plain(self, text: str) -> str:
        """Give the words of a text without their features."""
        return " ".join(self.split(text)[0])

    def seen(self, text: str) -> str:
        """Give a text as the tokenizer is to see it."""
        return " ".join(self.values(word, given)[0] for word, given in zip(*self.split(text), strict=True))


def learn_factors(annotation: Annotation, counts: Mapping[str, Counter[str]], most: int) -> tuple[Factor, ...]:
    """Choose the values of each factor from what was counted: the most frequent first, ties in code point order."""
    chosen = []
    for name in annotation.names:
        ranked = sorted((-count, value) for value, count in counts.get(name, Counter()).items())
        entries = CASES if name in AUTOMATIC else tuple(value for _, value in ranked[:most])
        chosen.append(Factor(name, entries))
    return tuple(chosen)


def count_values(annotation: Annotation, text: str, counts: Mapping[str, Counter[str]]) -> None:
    """Add the given features of a text to `counts`, by the names of their factors."""
    for given in annotation.split(text)[1]:
        for name, value in zip(annotation.given, given, strict=True):
            if value:
                counts[name][value] += 1
