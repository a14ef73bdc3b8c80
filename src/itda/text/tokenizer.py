"""The tokenizers of the two sides: trained, saved, loaded; each turns text into ids and back without loss."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itda.config import TokenizerConfig
from itda.durable import make_folder, write_whole
from itda.errors import DamagedFileError, UserError
from itda.text.contract import Tokenizer as Tokenizer
from itda.text.normalize import FORMS, normalize
from itda.text.subwords import SubwordTokenizer, open_subwords, train_subwords
from itda.text.vocabulary import SPECIALS, ListTokenizer, count_entries, read_entries
from itda.text.wrapped import core, factor_sizes, rewrap, wrapping

FORMAT = 1
MANIFEST = "tokenizers.json"
SAMPLE_CHARACTERS = 40_000_000  # of each side; more text changes the vocabulary little and costs memory


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of source and target: one and the same object where the vocabulary is joint."""

    src: Tokenizer
    tgt: Tokenizer
    notices: tuple[str, ...] = field(default=(), compare=False)  # what training did otherwise than it was asked

    @property
    def joint(self) -> bool:
        """Say whether both sides share one vocabulary of words."""
        return core(self.src) is core(self.tgt)

    def sizes(self) -> tuple[int, int, tuple[int, ...], tuple[int, ...]]:
        """Count the words of source and target, and the values of their factors: what a model is built for."""
        words = core(self.src).vocab_size, core(self.tgt).vocab_size
        return *words, factor_sizes(self.src), factor_sizes(self.tgt)

    def fingerprint(self) -> str:
        """Hash everything that decides ids."""
        return hashlib.sha256(json.dumps(self._manifest(), sort_keys=True).encode()).hexdigest()

    def _sides(self) -> dict[str, Tokenizer]:
        return {"joint": core(self.src)} if self.joint else {"src": core(self.src), "tgt": core(self.tgt)}

    def _factors(self) -> dict[str, bytes]:
        both = {"src": wrapping(self.src)[0], "tgt": wrapping(self.tgt)[0]}
        return {name: data for name, data in both.items() if data is not None}

    def _manifest(self) -> dict[str, Any]:
        manifest = {"format": FORMAT, "sides": {name: _describe(name, side) for name, side in self._sides().items()}}
        if factors := self._factors():
            manifest["factors"] = {
                name: {"file": f"{name}.factors.json", "sha256": hashlib.sha256(data).hexdigest()}
                for name, data in factors.items()
            }
        if tags := wrapping(self.src)[1]:
            manifest["tags"] = tags
        return manifest

    def save(self, folder: Path) -> None:
        """Write the tokenizers into `folder`, each file whole, the manifest with their checksums last."""
        make_folder(folder)
        for name, side in self._sides().items():
            write_whole(folder / _file_name(name, side), side.to_bytes())
        for name, data in self._factors().items():
            write_whole(folder / f"{name}.factors.json", data)
        write_whole(folder / MANIFEST, (json.dumps(self._manifest(), indent=1) + "\n").encode())


def _file_name(name: str, side: Tokenizer) -> str:
    return f"{name}.model" if isinstance(side, SubwordTokenizer) else f"{name}.json"


def _describe(name: str, side: Tokenizer) -> dict[str, Any]:
    about = {"file": _file_name(name, side), "sha256": hashlib.sha256(side.to_bytes()).hexdigest()}
    about |= {"kind": side.kind, "normalization": side.normalization}
    if not isinstance(side, SubwordTokenizer):
        return about
    extended = {"added": side.added} if side.added else {}
    return about | {"model": side.model, "sampling": side.sampling} | extended


def load_tokenizers(folder: Path) -> TokenizerPair:
    """Read what `TokenizerPair.save` wrote; a file that is missing or altered is a `DamagedFileError`."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
        if manifest["format"] != FORMAT:
            raise UserError(
                f"{path} has format {manifest['format']}; this itda reads format {FORMAT}; use the itda that wrote it."
            )
        sides = {name: _load_side(folder, about) for name, about in manifest["sides"].items()}
        src, tgt = (sides.get("joint") or sides[name] for name in ("src", "tgt"))
        factors = {name: _checked_bytes(folder, about) for name, about in manifest.get("factors", {}).items()}
        src = rewrap(src, factors.get("src"), manifest.get("tags", []), str(path))
        return TokenizerPair(src, rewrap(tgt, factors.get("tgt"), [], str(path)))
    except OSError as error:
        raise DamagedFileError(
            f"{error.filename or path} cannot be read ({error.strerror}); restore it, or train again."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} is not what itda wrote ({error!r}); restore it, or train again.") from None


def _load_side(folder: Path, about: dict[str, Any]) -> Tokenizer:
    path, form = folder / Path(about["file"]).name, about["normalization"]
    data = _checked_bytes(folder, about)
    if form not in FORMS:
        raise ValueError(f"normalization {form}")
    if about["kind"] == "sentencepiece":
        sampling, added = float(about["sampling"]), int(about.get("added", 0))
        return open_subwords(data, about["kind"], about["model"], form, sampling, str(path), added)
    return ListTokenizer(about["kind"], form, read_entries(data, str(path)))


def _checked_bytes(folder: Path, about: dict[str, Any]) -> bytes:
    path = folder / Path(about["file"]).name
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise DamagedFileError(
            f"{path} has {len(data)} bytes whose checksum is not the one that was saved; restore it, or train again."
        )
    return data


def train_tokenizers(
    config: TokenizerConfig, pairs: Callable[[], Iterator[tuple[str, str]]], seed: int
) -> TokenizerPair:
    """Learn the vocabularies from pairs, which are read twice: once to measure them, once to learn from.

    Of a corpus with more than SAMPLE_CHARACTERS on a side, a share of the pairs drawn with `seed` is used.
    """
    count = characters = 0
    for src, tgt in pairs():
        count, characters = count + 1, characters + max(len(src), len(tgt))
    if not count:
        raise UserError("there are no pairs to learn a vocabulary from; give at least one pair.")
    share = min(1.0, SAMPLE_CHARACTERS / max(1, characters))
    notices: list[str] = []

    def texts(sides: tuple[int, ...]) -> Iterator[str]:
        draw = random.Random(seed)
        for pair in pairs():
            if share >= 1.0 or draw.random() < share:
                for side in sides:
                    yield normalize(pair[side], config.normalization)

    def learn(sides: tuple[int, ...], name: str) -> Tokenizer:
        tokenizer = _learn(config, texts(sides))
        if config.kind == "sentencepiece" and tokenizer.vocab_size < config.vocab_size:
            notices.append(
                f"tokenizer.vocab_size is {config.vocab_size}; the text of {name} fills only {tokenizer.vocab_size} "
                "entries, which are used."
            )
        return tokenizer

    if config.joint:
        both = learn((0, 1), "both sides")
        return TokenizerPair(both, both, tuple(notices))
    return TokenizerPair(learn((0,), "the source"), learn((1,), "the target"), tuple(notices))


def _learn(config: TokenizerConfig, texts: Iterator[str]) -> Tokenizer:
    if config.kind == "sentencepiece":
        proto = train_subwords(texts, config.model, config.vocab_size, config.character_coverage)
        return SubwordTokenizer(config.kind, config.model, config.normalization, config.sampling, proto)
    if config.vocab_size <= len(SPECIALS):
        raise UserError(
            f"tokenizer.vocab_size is {config.vocab_size}; it must be more than the {len(SPECIALS)} special entries."
        )
    return ListTokenizer(
        config.kind, config.normalization, count_entries(texts, config.kind, config.vocab_size, config.min_count)
    )
