"""Factors: features of a word that travel beside it (Sennrich and Haddow 2016, arXiv 1606.02892).

Each subword of a word carries the features of the word. A token with its features is one number, the index of
(word, feature, feature ...) in the product of their vocabularies, so that all that moves ids knows nothing of factors.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from itda.errors import DamagedFileError, UserError
from itda.text.annotation import UNKNOWN, Annotation, Factor
from itda.text.case import recase, split_case
from itda.text.contract import Tokenizer

MOST_PACKED = 1 << 62  # packed ids are 64-bit numbers


@dataclass(frozen=True, eq=False)
class FactoredTokenizer:
    """A tokenizer whose ids are packed: word + V x (first factor + F1 x (second factor + ...)).

    Ids below V (`inner.vocab_size`) are words without factors, among them all special ones. `decode` gives words their
    case back, and leaves all other factors out of the text.
    """

    inner: Tokenizer
    annotation: Annotation
    factors: tuple[Factor, ...]

    def __post_init__(self) -> None:
        """Refuse what does not fit into a number."""
        if self.vocab_size > MOST_PACKED:
            sizes = " x ".join(f"{factor.size} ({factor.name})" for factor in self.factors)
            raise UserError(
                f"{self.inner.vocab_size} words x {sizes} combinations are more than fit into a 64-bit number; "
                "leave out the factor with the most values."
            )

    @property
    def kind(self) -> str:
        """Name the family of the words' tokenizer."""
        return self.inner.kind

    @property
    def normalization(self) -> str:
        """Name the Unicode normal form."""
        return self.inner.normalization

    @property
    def sizes(self) -> tuple[int, ...]:
        """Count the numbers of each factor."""
        return tuple(factor.size for factor in self.factors)

    @property
    def vocab_size(self) -> int:
        """Count the packed ids."""
        size = self.inner.vocab_size
        for factor in self.factors:
            size *= factor.size
        return size

    @property
    def deterministic(self) -> bool:
        """Say whether `sample` always equals `encode`."""
        return self.inner.deterministic

    def _words(self, text: str) -> tuple[list[str], list[tuple[str, ...]]]:
        """Cut a text into normalised words and their features; what becomes several words has them in each."""
        words, features = list[str](), list[tuple[str, ...]]()
        for word, given in zip(*self.annotation.split(text), strict=True):
            several = self.inner.normalize(word).split(" ")
            words += several
            features += [given] * len(several)
        return words, features

    def normalize(self, text: str) -> str:
        """Apply the normal form to the words, and leave their features as they are."""
        return self.annotation.join(*self._words(text))

    def plain(self, text: str) -> str:
        """Give the words of a text without their features."""
        return self.annotation.plain(text)

    def _read(self, text: str) -> tuple[str, list[str], list[int]]:
        """Give a text as the tokenizer sees it, the case of each word, and its packed factors."""
        words, cases, packed = list[str](), list[str](), list[int]()
        for word, given in zip(*self._words(text), strict=True):
            left, values = self.annotation.values(word, given)
            words.append(left)
            cases.append(next((v for v, factor in zip(values, self.factors, strict=True) if factor.name == "case"), ""))
            packed.append(self.pack([f.numbers.get(v, UNKNOWN) for f, v in zip(self.factors, values, strict=True)]))
        return " ".join(words), cases, packed

    def pack(self, numbers: Sequence[int]) -> int:
        """Pack the numbers of a token's factors into what is added to the id of its word."""
        packed = 0
        for factor, number in zip(reversed(self.factors), reversed(numbers), strict=True):
            packed = packed * factor.size + number
        return packed * self.inner.vocab_size

    def words(self, ids: Iterable[int]) -> list[int]:
        """Take the words out of packed ids."""
        size = self.inner.vocab_size
        return [number % size for number in ids]

    def values(self, ids: Iterable[int]) -> dict[str, tuple[str, ...]]:
        """Name the value of each factor of each packed id."""
        found: dict[str, tuple[str, ...]] = {}
        rests = [number // self.inner.vocab_size for number in ids]
        for factor in self.factors:
            found[factor.name] = tuple(factor.value(rest % factor.size) for rest in rests)
            rests = [rest // factor.size for rest in rests]
        return found

    def _owners(self, spelled: Sequence[bytes]) -> list[int]:
        """Find the word, from 0, that each token belongs to by its bytes; -1: to none, it is but spaces."""
        gap = self.inner.finish(b" ") == ""
        owners, spaces = list[int](), -1 if gap and b"".join(spelled)[:1] == b" " else 0
        for piece in spelled:
            left = piece.lstrip(b" ")
            spaces += len(piece) - len(left)
            owners.append(spaces if left else -1)
            spaces += left.count(b" ")
        return owners

    def encode(self, text: str) -> list[int]:
        """Turn a text with its features into packed ids; no word is special but UNK."""
        seen, _, packed = self._read(text)
        parts = self.inner.parts(seen)
        owners = self._owners([spelled for _, spelled in parts])
        return [number + (packed[owner] if owner >= 0 else 0) for (number, _), owner in zip(parts, owners, strict=True)]

    def sample(self, text: str, random: Random) -> list[int]:
        """Turn a text into packed ids of a segmentation drawn with `random`."""
        if self.deterministic:
            return self.encode(text)
        seen, _, packed = self._read(text)
        ids, spelling = self.inner.sample(seen, random), self.inner.spelling
        owners = self._owners([spelling[number] for number in ids])
        return [number + (packed[owner] if owner >= 0 else 0) for number, owner in zip(ids, owners, strict=True)]

    def decode(self, ids: Sequence[int], unknown: Mapping[int, str] | None = None) -> str:
        """Turn packed ids into text; each word has the case of its first token."""
        words = self.words(ids)
        text = self.inner.decode(words, unknown)
        cases = self.values(ids).get("case", ())
        spelling = self.inner.spelling
        first: dict[int, str] = {}
        owners = self._owners([spelling[number] for number in words])
        for position, (owner, case) in enumerate(zip(owners, cases, strict=False)):
            first.setdefault(owner, "" if position in (unknown or {}) else case)  # a source word stays as it is
        if not any(first.values()):
            return text
        return " ".join(recase(word, first.get(place, "")) for place, word in enumerate(text.split(" ")))

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Name the word of each id for a reader."""
        return self.inner.pieces(self.words(ids))

    def surfaces(self, text: str) -> list[str]:
        """Give the text behind each id of `encode(text)`, in its case."""
        seen, cases, _ = self._read(text)
        owners = self._owners([spelled for _, spelled in self.inner.parts(seen)])
        surfaces, before = list[str](), -1
        for surface, owner in zip(self.inner.surfaces(seen), owners, strict=True):
            case = cases[owner] if owner >= 0 else ""
            surfaces.append(surface if case == "title" and owner == before else recase(surface, case))
            before = owner
        return surfaces

    @property
    def spelling(self) -> list[bytes]:
        """The bytes that the word of each id below V adds to a raw output, case aside."""
        return self.inner.spelling

    def parts(self, text: str, inside: bool = False) -> list[tuple[int, bytes]]:
        """Cut a text without features into words, case aside."""
        seen = " ".join(split_case(word)[0] for word in text.split(" ")) if "case" in self.annotation.names else text
        return self.inner.parts(seen, inside)

    def finish(self, raw: bytes) -> str:
        """Turn a raw output into text, case aside."""
        return self.inner.finish(raw)

    def to_bytes(self) -> bytes:
        """Write what the ids depend on."""
        return self.inner.to_bytes() + b"\n" + self.factor_bytes()

    def factor_bytes(self) -> bytes:
        """Write the factors as JSON."""
        entries = [{"name": factor.name, "entries": list(factor.entries)} for factor in self.factors]
        return json.dumps(
            {"separator": self.annotation.separator, "factors": entries}, ensure_ascii=False, indent=0
        ).encode("utf-8", "surrogatepass")


def open_factors(inner: Tokenizer, data: bytes, name: str) -> FactoredTokenizer:
    """Read what `factor_bytes` wrote."""
    try:
        read: dict[str, Any] = json.loads(data)
        factors = tuple(Factor(str(one["name"]), tuple(map(str, one["entries"]))) for one in read["factors"])
        annotation = Annotation(tuple(factor.name for factor in factors), str(read["separator"]))
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedFileError(f"{name} is not what itda wrote ({error!r}); restore it, or train again.") from None
    return FactoredTokenizer(inner, annotation, factors)
