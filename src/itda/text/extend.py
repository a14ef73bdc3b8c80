"""A vocabulary that grows: new entries behind the old ones, whose ids stay."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from itda.config import TokenizerConfig
from itda.errors import UserError
from itda.text.subwords import SPACE_MARK, SubwordTokenizer, escape
from itda.text.tokenizer import Tokenizer, TokenizerPair
from itda.text.vocabulary import SPECIALS, SPLITTERS, UNK, ListTokenizer
from itda.text.wrapped import core

USER_DEFINED = 4  # sentencepiece_model.proto: a piece that is matched wherever its text stands, the longest first
Texts = Callable[[], Iterable[tuple[str, str]]]
Origins = tuple[tuple[int, ...], ...]  # for each new entry: the old ids that its text had, without <unk>


def extend_pair(old: TokenizerPair, config: TokenizerConfig, pairs: Texts) -> TokenizerPair:
    """Append `added`, then the most frequent unknown words or characters of the pairs; the old pair if nothing is new.

    Subword sampling follows `config`, not the old tokenizers: it is a way of training, and no part of the ids.
    """
    if old.joint:
        both = _extend_side(old.src, config, (text for pair in pairs() for text in pair))
        return old if both is old.src else TokenizerPair(both, both)
    src = _extend_side(old.src, config, (src for src, _ in pairs()))
    tgt = _extend_side(old.tgt, config, (tgt for _, tgt in pairs()))
    return old if src is old.src and tgt is old.tgt else TokenizerPair(src, tgt)


def _extend_side(old: Tokenizer, config: TokenizerConfig, texts: Iterable[str]) -> Tokenizer:
    if not isinstance(old, (SubwordTokenizer, ListTokenizer)):
        return _kept(old, config)
    if isinstance(old, SubwordTokenizer) and old.sampling != config.sampling:
        old = replace(old, sampling=config.sampling)
    new = extend(old, config.added)
    if not config.added_from_data:
        return new
    unknown = unknown_entries(new, texts, config.min_count if isinstance(new, ListTokenizer) else 1)
    return _append(new, unknown[: config.added_from_data])


def _kept(old: Tokenizer, config: TokenizerConfig) -> Tokenizer:
    """Keep a vocabulary whose ids carry factors or tags: they are counted from the number of words."""
    words = core(old)
    if config.added or config.added_from_data:
        raise UserError("a vocabulary with factors or tags cannot grow; leave tokenizer.added and added_from_data out")
    if isinstance(words, SubwordTokenizer) and words.sampling != config.sampling:
        raise UserError(
            f"tokenizer.sampling is {config.sampling:g}, and {words.sampling:g} in the run to start from; with factors "
            "or tags both must be equal"
        )
    return old


def extend(tokenizer: Tokenizer, added: Sequence[str]) -> Tokenizer:
    """Append texts, each as one entry; the same tokenizer where all of them are entries already.

    In a sentencepiece vocabulary a text becomes two pieces, one for the start of a word and one for inside, since a
    name or a tag stands behind a space as well as behind a bracket.
    """
    if isinstance(tokenizer, ListTokenizer):
        return _append(tokenizer, [_single_entry(tokenizer, text) for text in added])
    assert isinstance(tokenizer, SubwordTokenizer)
    texts = [_piece_of(tokenizer, text) for text in added]
    return _append(tokenizer, [piece for text in texts for piece in (SPACE_MARK + text, text)])


def unknown_entries(tokenizer: Tokenizer, texts: Iterable[str], min_count: int) -> list[str]:
    """List what the texts hold and the vocabulary does not, the most frequent first: words, or characters.

    For a sentencepiece vocabulary these are the characters that are spelled in bytes.
    """
    counts = Counter[str]()
    if isinstance(tokenizer, ListTokenizer):
        known, cut = set(tokenizer.entries), SPLITTERS[tokenizer.kind]
        for text in texts:
            counts.update(part for part in cut(tokenizer.normalize(text)) if part not in known)
    else:
        assert isinstance(tokenizer, SubwordTokenizer)
        matched = tokenizer.matched
        for text in texts:
            marks = escape(tokenizer.normalize(text))
            counts.update(mark for mark in marks if mark not in matched and mark != " " and mark.isprintable())
    return [entry for entry, count in sorted(counts.items(), key=lambda one: (-one[1], one[0])) if count >= min_count]


def origins(old: Tokenizer, new: Tokenizer) -> Origins:
    """Say, for each entry that `new` has behind those of `old`, into which ids `old` cuts its text; <unk> is none."""
    if new.vocab_size == old.vocab_size:
        return ()
    if isinstance(new, ListTokenizer):
        cut = [old.parts(entry, inside=True) for entry in new.entries[old.vocab_size - len(SPECIALS) :]]
        return tuple(tuple(number for number, _ in parts if number != UNK) for parts in cut)
    assert isinstance(old, SubwordTokenizer)
    assert isinstance(new, SubwordTokenizer)
    pieces = [new.piece(number) for number in range(old.vocab_size, new.vocab_size)]
    return tuple(tuple(number for number in old.ids_of_piece(piece) if number != UNK) for piece in pieces)


def _append(tokenizer: Tokenizer, entries: Sequence[str]) -> Tokenizer:
    if isinstance(tokenizer, ListTokenizer):
        new = _new(entries, tokenizer.entries)
        return replace(tokenizer, entries=(*tokenizer.entries, *new)) if new else tokenizer
    assert isinstance(tokenizer, SubwordTokenizer)
    new = _new(entries, tokenizer.matched)
    proto = tokenizer.proto + b"".join(map(_proto_piece, new))
    return replace(tokenizer, proto=proto, added=tokenizer.added + len(new)) if new else tokenizer


def _new(entries: Sequence[str], known: Iterable[str]) -> list[str]:
    known = set(known)
    return [entry for entry in dict.fromkeys(entries) if entry not in known]


def _single_entry(tokenizer: ListTokenizer, text: str) -> str:
    parts = [piece.decode() for _, piece in tokenizer.parts(text)]
    if len(parts) != 1 or not text.strip():
        unit = "word" if tokenizer.kind == "words" else "character"
        raise UserError(
            f'tokenizer.added holds "{text}", which is {len(parts)} {tokenizer.kind} here; each must be one {unit}; '
            "write them one by one."
        )
    return parts[0]


def _piece_of(tokenizer: SubwordTokenizer, text: str) -> str:
    piece = escape(tokenizer.normalize(text)).replace(" ", SPACE_MARK)
    if not text.strip() or text != text.strip():
        raise UserError(f'tokenizer.added holds "{text}"; each must be a text without white space around it.')
    if tokenizer.is_reserved(piece):
        raise UserError(f'tokenizer.added holds "{text}", a name that sentencepiece keeps for itself; choose another.')
    return piece


def _proto_piece(piece: str) -> bytes:
    """Write one more `pieces` entry: a repeated field of a protobuf message goes on wherever it is appended."""
    raw = piece.encode("utf-8")
    body = b"\x0a" + _varint(len(raw)) + raw + b"\x15" + struct.pack("<f", 0.0) + b"\x18" + _varint(USER_DEFINED)
    return b"\x0a" + _varint(len(body)) + body


def _varint(number: int) -> bytes:
    """Write a number in protobuf's way: seven bits a byte, the lowest first, the top bit where more follow."""
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*written, number])
