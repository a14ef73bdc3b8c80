"""Language tags: one model for many languages, told by a first token which one to write (Johnson et al. 2017).

A source begins with its tag and a space, `<2de> `. The tag is one id beyond those of the words: no tokenizer ever cuts
it, nothing that stands further inside a text turns into it, and no output holds one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

from itda.errors import UserError
from itda.text.contract import Tokenizer
from itda.text.factors import FactoredTokenizer

_TAG = re.compile(r"<2([^<>\s]+)>( |$)")


def tag(language: str) -> str:
    """Write the tag of a language."""
    return f"<2{language}>"


def split_tag(text: str) -> tuple[str, str]:
    """Take the tag off a text: the language (empty: none), and the rest."""
    found = _TAG.match(text)
    return (found[1], text[found.end() :]) if found else ("", text)


def check_language(language: str, known: Sequence[str]) -> str:
    """Refuse a language that a model has no tag for."""
    if not known:
        raise UserError(f"the target language {language} was asked for, and this model has no tags (empty data.tags)")
    if language not in known:
        raise UserError(f"the target language is {language!r:.60}; this model's tags are for {', '.join(known)}")
    return language


@dataclass(frozen=True, eq=False)
class TaggedTokenizer:
    """The tokenizer of a source that begins with a tag; the ids of tags follow those of `inner`."""

    inner: Tokenizer
    languages: tuple[str, ...]

    @property
    def kind(self) -> str:
        """Name the family of the words' tokenizer."""
        return self.inner.kind

    @property
    def normalization(self) -> str:
        """Name the Unicode normal form."""
        return self.inner.normalization

    @property
    def vocab_size(self) -> int:
        """Count the ids, tags included."""
        return self.inner.vocab_size + len(self.languages)

    @property
    def deterministic(self) -> bool:
        """Say whether `sample` always equals `encode`."""
        return self.inner.deterministic

    def _split(self, text: str) -> tuple[str, str]:
        language, rest = split_tag(text)
        if not language:
            raise UserError(
                f"the source has no tag that says what to write: begin it with <2{self.languages[0]}>, or name the "
                f"target language (--to, target_language); this model's tags are for {', '.join(self.languages)}"
            )
        return check_language(language, self.languages), rest

    def normalize(self, text: str) -> str:
        """Apply the normal form to what follows the tag."""
        language, rest = self._split(text)
        return f"{tag(language)} {self.inner.normalize(rest)}"

    def _id(self, language: str) -> int:
        return self.inner.vocab_size + self.languages.index(language)

    def encode(self, text: str) -> list[int]:
        """Turn a text into ids, the tag first."""
        language, rest = self._split(text)
        return [self._id(language), *self.inner.encode(rest)]

    def sample(self, text: str, random: Random) -> list[int]:
        """Turn a text into ids, what follows the tag drawn with `random`."""
        language, rest = self._split(text)
        return [self._id(language), *self.inner.sample(rest, random)]

    def decode(self, ids: Sequence[int], unknown: Mapping[int, str] | None = None) -> str:
        """Turn ids back into text, without the tag."""
        words = [(place, number) for place, number in enumerate(ids) if number < self.inner.vocab_size]
        known = {now: unknown[old] for now, (old, _) in enumerate(words) if unknown and old in unknown}
        return self.inner.decode([number for _, number in words], known)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Name each id for a reader."""
        base, named = self.inner.vocab_size, list[str]()
        for number in ids:
            named += [tag(self.languages[number - base])] if number >= base else self.inner.pieces([number])
        return named

    def surfaces(self, text: str) -> list[str]:
        """Give the text behind each id of `encode(text)`."""
        language, rest = self._split(text)
        return [tag(language), *self.inner.surfaces(rest)]

    def plain(self, text: str) -> str:
        """Give the words of a text, without tag and features."""
        rest = self._split(text)[1]
        return self.inner.plain(rest) if isinstance(self.inner, FactoredTokenizer) else rest

    @property
    def spelling(self) -> list[bytes]:
        """The bytes of each id; a tag has none."""
        return [*self.inner.spelling, *[b""] * len(self.languages)]

    def parts(self, text: str, inside: bool = False) -> list[tuple[int, bytes]]:
        """Cut a text without a tag into ids with the bytes of each."""
        return self.inner.parts(text, inside)

    def finish(self, raw: bytes) -> str:
        """Turn a raw output into text."""
        return self.inner.finish(raw)

    def to_bytes(self) -> bytes:
        """Write what the ids depend on."""
        return self.inner.to_bytes() + b"\n" + " ".join(self.languages).encode()
