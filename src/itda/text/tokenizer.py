"""The tokenizers of the two sides: trained, saved, loaded; each turns text into ids and back without loss."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from itda.config import TokenizerConfig
from itda.durable import make_folder, write_whole
from itda.errors import DamagedFileError, UserError
from itda.text.normalize import FORMS, normalize
from itda.text.subwords import SubwordTokenizer, open_subwords, train_subwords
from itda.text.vocabulary import SPECIALS, ListTokenizer, count_entries, read_entries

FORMAT = 1
MANIFEST = "tokenizers.json"
SAMPLE_CHARACTERS = 40_000_000  # of each side; more text changes the vocabulary little and costs memory


@runtime_checkable
class Tokenizer(Protocol):
    """One side's way from text to ids and back: decode(encode(x)) == normalize(x) where nothing is unknown."""

    @property
    def kind(self) -> str:
        """Name the family."""

    @property
    def normalization(self) -> str:
        """Name the Unicode normal form."""

    @property
    def vocab_size(self) -> int:
        """Count the entries, the four special ones included."""

    @property
    def deterministic(self) -> bool:
        """Say whether `sample` always equals `encode`."""

    def normalize(self, text: str) -> str:
        """Apply the stated Unicode normal form, and nothing else."""

    def encode(self, text: str) -> list[int]:
        """Turn a text into ids, without bos and eos; the only special id that may come out is UNK."""

    def sample(self, text: str, random: random.Random) -> list[int]:
        """Turn a text into ids of a segmentation drawn with `random`; `encode` where sampling is off."""

    def decode(self, ids: Sequence[int], unknown: Mapping[int, str] | None = None) -> str:
        """Turn ids back into text, without PAD, BOS and EOS; `unknown[position]` stands in for an UNK there."""

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Name each id for a reader."""

    def surfaces(self, text: str) -> list[str]:
        """Give the text behind each id of `encode(text)`, known or not."""

    @property
    def spelling(self) -> list[bytes]:
        """The bytes that each id adds to a raw output, which `finish` turns into text."""

    def parts(self, text: str, inside: bool = False) -> list[tuple[int, bytes]]:
        """Cut a text into ids with the bytes of each, known or not; `inside`: as what goes on behind other text."""

    def finish(self, raw: bytes) -> str:
        """Turn a raw output, the bytes of its ids one after the other, into text."""

    def to_bytes(self) -> bytes:
        """Write what the ids depend on."""


@dataclass(frozen=True)
class TokenizerPair:
    """The tokenizers of source and target: one and the same object where the vocabulary is joint."""

    src: Tokenizer
    tgt: Tokenizer
    notices: tuple[str, ...] = field(default=(), compare=False)  # what training did otherwise than it was asked

    @property
    def joint(self) -> bool:
        """Say whether both sides share one vocabulary."""
        return self.src is self.tgt

    def fingerprint(self) -> str:
        """Hash everything that decides ids."""
        return hashlib.sha256(json.dumps(self._manifest(), sort_keys=True).encode()).hexdigest()

    def _sides(self) -> dict[str, Tokenizer]:
        return {"joint": self.src} if self.joint else {"src": self.src, "tgt": self.tgt}

    def _manifest(self) -> dict[str, Any]:
        return {"format": FORMAT, "sides": {name: _describe(name, side) for name, side in self._sides().items()}}

    def save(self, folder: Path) -> None:
        """Write the tokenizers into `folder`, each file whole, the manifest with their checksums last."""
        make_folder(folder)
        for name, side in self._sides().items():
            write_whole(folder / _file_name(name, side), side.to_bytes())
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
        return (
            TokenizerPair(sides["joint"], sides["joint"])
            if "joint" in sides
            else TokenizerPair(sides["src"], sides["tgt"])
        )
    except OSError as error:
        raise DamagedFileError(
            f"{error.filename or path} cannot be read ({error.strerror}); restore it, or train again."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(f"{path} is not what itda wrote ({error!r}); restore it, or train again.") from None


def _load_side(folder: Path, about: dict[str, Any]) -> Tokenizer:
    path, form = folder / Path(about["file"]).name, about["normalization"]
    data = path.read_bytes()
    if hashlib.sha256(data).hexdigest() != about["sha256"]:
        raise DamagedFileError(
            f"{path} has {len(data)} bytes whose checksum is not the one that was saved; restore it, or train again."
        )
    if form not in FORMS:
        raise ValueError(f"normalization {form}")
    if about["kind"] == "sentencepiece":
        sampling, added = float(about["sampling"]), int(about.get("added", 0))
        return open_subwords(data, about["kind"], about["model"], form, sampling, str(path), added)
    return ListTokenizer(about["kind"], form, read_entries(data, str(path)))


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
