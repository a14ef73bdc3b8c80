"""Terms and placeholders: what of a source decides what must stand in its output."""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from itda.data.lines import read_lines
from itda.decode.automaton import inside_word
from itda.decode.wishes import check_phrase
from itda.errors import UserError

# {name} and {{name}}, %s and %(name)d, ${name}, tags, addresses: the usual ones; a pattern of one's own may be given
PLACEHOLDERS = r"\{\{[^{}\s]+\}\}|\$?\{[^{}\s]*\}|%(?:\(\w+\))?[sdifr]|</?\w[^<>]*>|https?://\S+"


@dataclass(frozen=True)
class Terminology:
    """Source terms, each with the target term that must be written where it occurs."""

    terms: Mapping[str, str]
    name: str = "terminology"

    @staticmethod
    def read(source: str | Path | Mapping[str, str] | Terminology) -> Terminology:
        """Read a TSV file with a source term and a target term a line, or take a mapping."""
        if isinstance(source, Terminology):
            return source
        if isinstance(source, Mapping):
            terms = {check_phrase(a, "terminology"): check_phrase(b, "terminology") for a, b in source.items()}
            return Terminology(terms)
        path, terms = Path(source), {}
        for line in read_lines(path):
            if not line.text.strip():
                continue
            place, sides = f"{path}, line {line.number}", line.text.split("\t")
            if len(sides) != 2 or not all(side.strip() for side in sides):
                raise UserError(f"{place} has {len(sides)} column(s); it must be: source term, tab, target term")
            src, tgt = (check_phrase(side.strip(), place) for side in sides)
            if terms.setdefault(src, tgt) != tgt:
                raise UserError(f"{place} says {tgt!r} for {src!r}, and an earlier line {terms[src]!r}; keep one")
        return Terminology(terms, str(path))

    def wanted(self, text: str) -> Counter[str]:
        """Find the target terms for a source text: longer terms first, and none inside another word."""
        return Counter({self.terms[term]: 1 for term in self._found(text)})

    @functools.cached_property
    def _by_first(self) -> dict[str, list[str]]:
        """The terms by their first character, longer ones first."""
        found: dict[str, list[str]] = {}
        for term in sorted(self.terms, key=len, reverse=True):
            found.setdefault(term[0], []).append(term)
        return found

    def _found(self, text: str) -> Iterator[str]:
        position = 0
        while position < len(text):
            here = (term for term in self._by_first.get(text[position], ()) if _stands(term, text, position))
            term = next(here, None)
            if term is not None:
                yield term
            position += 1 if term is None else len(term)


def _stands(term: str, text: str, position: int) -> bool:
    """Say whether a term stands here as a word of its own; a particle in Hangul may follow it."""
    end = position + len(term)
    if not text.startswith(term, position):
        return False
    if position and inside_word(text[position - 1]) and inside_word(term[0]):
        return False
    after = text[end : end + 1]
    return not (after and inside_word(after) and inside_word(term[-1]) and not "\uac00" <= after <= "\ud7a3")


def placeholder_pattern(pattern: str | bool | None) -> re.Pattern[str] | None:
    """Compile the pattern of placeholders; True: the usual ones; False or None: none."""
    if pattern is None or pattern is False:
        return None
    try:
        return re.compile(PLACEHOLDERS if pattern is True else pattern)
    except (re.error, TypeError) as error:
        raise UserError(f"placeholders is {pattern!r:.80}, which is no regular expression ({error})") from None


def placeholders_of(pattern: re.Pattern[str], text: str) -> Counter[str]:
    """Count the placeholders of a source, each of which must stand in its output as often."""
    return Counter(match[0] for match in pattern.finditer(text) if match[0])
