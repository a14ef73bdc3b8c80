"""What may stand around a tokenizer of words: factors, then tags. Both are optional, and each leaves the next alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from itda.errors import DamagedFileError, UserError
from itda.text.contract import Tokenizer
from itda.text.factors import FactoredTokenizer, open_factors
from itda.text.tags import TaggedTokenizer, check_language, split_tag, tag


def core(tokenizer: Tokenizer) -> Tokenizer:
    """Find the tokenizer of the words themselves."""
    while isinstance(tokenizer, (FactoredTokenizer, TaggedTokenizer)):
        tokenizer = tokenizer.inner
    return tokenizer


def factored(tokenizer: Tokenizer) -> FactoredTokenizer | None:
    """Find the tokenizer that packs factors, where there is one."""
    inner = tokenizer.inner if isinstance(tokenizer, TaggedTokenizer) else tokenizer
    return inner if isinstance(inner, FactoredTokenizer) else None


def languages(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Name the languages that a source can ask for."""
    return tokenizer.languages if isinstance(tokenizer, TaggedTokenizer) else ()


def plain_text(tokenizer: Tokenizer, text: str) -> str:
    """Give the words of a text alone, without its tag and the features behind them."""
    return tokenizer.plain(text) if isinstance(tokenizer, (FactoredTokenizer, TaggedTokenizer)) else text


def tagged(tokenizer: Tokenizer, text: str, language: str) -> str:
    """Put the tag of a target language before a source, where one is asked for; blank sources stay as they are."""
    known = languages(tokenizer)
    if not language or not text.strip():
        return text
    check_language(language, known)
    own, _ = split_tag(text)
    if own in known and own != language:
        raise UserError(
            f"the text begins with {tag(own)}, and the target language {language} was asked for; leave one out"
        )
    return text if own == language else f"{tag(language)} {text}"


def words_of(tokenizer: Tokenizer, ids: Sequence[int]) -> Sequence[int]:
    """Take the words out of ids that may be packed with factors."""
    found = factored(tokenizer)
    return ids if found is None else found.words(ids)


def folds_case(tokenizer: Tokenizer) -> bool:
    """Say whether the ids of words are those of words without their case."""
    found = factored(tokenizer)
    return found is not None and "case" in found.annotation.names


def factor_sizes(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Count the numbers of each factor."""
    found = factored(tokenizer)
    return () if found is None else found.sizes


def wrapping(tokenizer: Tokenizer) -> tuple[bytes | None, list[str]]:
    """Give what stands around a tokenizer, to be written: its factors as bytes, and its languages."""
    found = factored(tokenizer)
    return None if found is None else found.factor_bytes(), list(languages(tokenizer))


def rewrap(inner: Tokenizer, factors: bytes | None, tags: Any, name: str) -> Tokenizer:
    """Put back what `wrapping` gave."""
    whole: Tokenizer = inner if factors is None else open_factors(inner, factors, name)
    if not isinstance(tags, list) or not all(isinstance(one, str) for one in tags):
        raise DamagedFileError(f"{name}: its tags are no list of languages; restore it, or train again.")
    return TaggedTokenizer(whole, tuple(tags)) if tags else whole
