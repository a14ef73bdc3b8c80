"""A request: all that one call asks of the search, from a recipe's [decode], the call's own settings, and wishes."""

from __future__ import annotations

import numbers
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from itda.config import DecodeConfig
from itda.config.keys import Setting, lookup
from itda.decode.automaton import Spelling
from itda.decode.diverse import Diversity
from itda.decode.sampling import Sampling
from itda.decode.scores import Scoring
from itda.decode.settings import Settings
from itda.decode.terminology import Terminology, placeholder_pattern, placeholders_of
from itda.decode.wishes import Manners, Wish, check_phrase, make_wish
from itda.errors import UserError

OF_BEAMS = ("beam_size", "diverse_groups")  # what sampling has no use for


@dataclass(frozen=True)
class Asked:
    """The wishes of a call as they were written: one for all texts, or one for each."""

    prefix: str | tuple[str, ...] = ""
    must: tuple[str, ...] | tuple[tuple[str, ...], ...] = ()
    must_not: tuple[str, ...] | tuple[tuple[str, ...], ...] = ()
    terminology: Terminology | None = None
    placeholders: re.Pattern[str] | None = None
    target_language: str | tuple[str, ...] = ""

    def language(self, number: int) -> str:
        """The language that text `number` (from 1) is to be written in; empty: what its own tag says."""
        one = self.target_language
        return one if isinstance(one, str) else _at(one, number, "target_language")

    def of(self, number: int, text: str, spelling: Spelling, manners: Manners) -> Wish:
        """The wish for text `number` (from 1)."""
        required = Counter(_for_one(self.must, number, "must"))
        required = Counter(dict.fromkeys(required, 1))
        if self.terminology is not None:
            required |= self.terminology.wanted(text)
        if self.placeholders is not None:
            required |= placeholders_of(self.placeholders, text)
        prefix = self.prefix if isinstance(self.prefix, str) else _at(self.prefix, number, "prefix")
        must_not = _for_one(self.must_not, number, "must_not")
        if not (prefix or required or must_not):
            return Wish()
        return make_wish(spelling, prefix, required, must_not, manners)

    def check_all_used(self, texts: int) -> None:
        """Refuse a list of wishes that was longer than that of the texts."""
        for name in ("prefix", "must", "must_not", "target_language"):
            wishes = getattr(self, name)
            for_all = name in ("must", "must_not") and wishes and isinstance(wishes[0], str)
            each = not isinstance(wishes, str) and not for_all
            if each and len(wishes) > texts:
                raise UserError(
                    f"{name} has {len(wishes)} entries, and there are {texts} texts; give one for each text"
                )


@dataclass(frozen=True)
class Request:
    """The settings of the search, what holds for all texts, and the wishes for each."""

    decode: DecodeConfig
    settings: Settings
    manners: Manners
    asked: Asked

    @staticmethod
    def of(
        decode: DecodeConfig,
        *,
        n_best: int = 1,
        sample: Sampling | Mapping[str, Any] | bool | None = None,
        prefix: str | Sequence[str] | None = None,
        must: Sequence[Any] = (),
        must_not: Sequence[Any] = (),
        terminology: str | Path | Mapping[str, str] | Terminology | None = None,
        placeholders: str | bool | None = None,
        target_language: str | Sequence[str] | None = None,
        **own: Any,
    ) -> Request:
        """Put a call's own settings of [decode] in place of the recipe's, and check all of it."""
        sampling = _sampling(sample)
        for name in OF_BEAMS:
            if sampling is not None and own.get(name) not in (None, 1):
                raise UserError(
                    f"sample and {name} = {own[name]} were both asked for; samples are drawn one by one: leave one out"
                )
        decode = decode_settings(decode, own)
        asked = Asked(
            _prefixes(prefix),
            _phrases(must, "must"),
            _phrases(must_not, "must_not"),
            None if terminology is None else Terminology.read(terminology),
            placeholder_pattern(placeholders),
            target_languages(target_language),
        )
        manners = Manners(decode.no_repeat_ngram, decode.repetition_penalty, decode.min_length)
        request = Request(decode, _settings(decode, n_best, sampling), manners, asked)
        request._check_certified()
        return request

    def _check_certified(self) -> None:
        """Refuse a certificate where other things than the best word decide."""
        if self.decode.shortlist != "certified":
            return
        settings = self.settings
        named = f"beam_size is {self.decode.beam_size}" if self.decode.beam_size > 1 else f"n_best is {settings.n_best}"
        if settings.sampling is not None:
            named = "sample is on"
        if settings.sampling is not None or settings.width > 1:
            raise UserError(
                f'shortlist = "certified" proves which word is the best, as greedy search asks, and {named}; '
                'set beam_size = 1, or use shortlist = "on"'
            )


def decode_settings(config: DecodeConfig, settings: Mapping[str, Any]) -> DecodeConfig:
    """The [decode] section with some settings replaced, each checked as in a recipe; None leaves one as it is."""
    for name, value in settings.items():
        if value is not None:
            known = lookup(f"decode.{name}", "generate")
            assert isinstance(known, Setting), "the decode section has no subsections"
            config = replace(config, **{name: known.check(_plain(value), "generate")})
    return config


def _plain(value: Any) -> Any:
    """Take numpy's numbers for what they are."""
    if isinstance(value, numbers.Integral) and not isinstance(value, bool):
        return int(value)
    return float(value) if isinstance(value, np.floating) else value


def _settings(decode: DecodeConfig, n_best: int, sampling: Sampling | None) -> Settings:
    scoring = Scoring(decode.length_normalization, decode.length_penalty, decode.coverage_penalty)
    if sampling is not None:
        return Settings(1, n_best, scoring, None, sampling).check()
    groups, beam_size = decode.diverse_groups, decode.beam_size
    widest = lookup("decode.beam_size")
    assert isinstance(widest, Setting)
    if widest.high is not None and n_best > widest.high:
        raise UserError(
            f"n_best is {n_best}; a beam must be as wide, and it may be {widest.high} at the most: ask for fewer"
        )
    if n_best > beam_size:  # a beam as wide as what is asked for
        beam_size = -(-n_best // groups) * groups
    diversity = Diversity(groups, decode.diversity) if groups > 1 else None
    return Settings(beam_size, n_best, scoring, diversity).check()


def _sampling(sample: Sampling | Mapping[str, Any] | bool | None) -> Sampling | None:
    if sample is None or sample is False:
        return None
    if isinstance(sample, Mapping):
        wrong = next((name for name in sample if name not in Sampling.__dataclass_fields__), None)
        if wrong is not None:
            raise UserError(f"sample holds {wrong!r}; it may hold {', '.join(Sampling.__dataclass_fields__)}")
        return Sampling(**sample)
    if sample is not True and not isinstance(sample, Sampling):
        raise UserError(f"sample is {sample!r:.60}; it must be True, itda.Sampling(...) or a mapping of its settings")
    return Sampling() if sample is True else sample


def _prefixes(prefix: str | Sequence[str] | None) -> str | tuple[str, ...]:
    if prefix is None or isinstance(prefix, str):
        return check_phrase(prefix, "prefix") if prefix else ""
    return tuple(check_phrase(one, "prefix") if one else "" for one in prefix)


def target_languages(given: str | Sequence[str] | None) -> str | tuple[str, ...]:
    """Take a language for all texts, or a list with one for each."""
    if given is None or isinstance(given, str):
        return given or ""
    if not isinstance(given, Sequence) or not all(isinstance(one, str) for one in given):
        raise UserError(
            f"target_language is {given!r:.60}; give a language such as de, or a list with one for each text"
        )
    return tuple(given)


def _phrases(phrases: Sequence[Any], name: str) -> tuple[Any, ...]:
    """Take a list of phrases for all texts, or a list of such lists, one a text."""
    if isinstance(phrases, str) or not isinstance(phrases, Sequence):
        raise UserError(
            f"{name} is {phrases!r:.60}; give a list of phrases, or a list of such lists, one for each text"
        )
    if any(isinstance(one, str) for one in phrases):
        return tuple(check_phrase(phrase, name) for phrase in phrases)
    return tuple(tuple(check_phrase(phrase, name) for phrase in one or ()) for one in phrases)


def _for_one(phrases: tuple[Any, ...], number: int, name: str) -> tuple[str, ...]:
    if phrases and isinstance(phrases[0], str):
        return phrases
    return _at(phrases, number, name) if phrases else ()


def _at(values: Sequence[Any], number: int, name: str) -> Any:
    if number > len(values):
        raise UserError(f"{name} has {len(values)} entries, and there is a text {number}; give one for each text")
    return values[number - 1]
