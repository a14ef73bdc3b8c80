"""sentencepiece, made exact: every text comes back from its pieces, and no text turns into a special id.

sentencepiece writes a space as ▁ (U+2581), so a ▁ of the text itself would come back as a space. It is therefore
written as STAND_IN, and a literal STAND_IN or ESCAPE as ESCAPE + itself: both are private-use characters.
"""

from __future__ import annotations

import functools
import io
import random
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import sentencepiece

from itda.errors import DamagedFileError, UserError
from itda.text.normalize import normalize
from itda.text.sampling import bpe_dropout, sample_lattice, word_lattice
from itda.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK

SPACE_MARK, STAND_IN, ESCAPE = "\u2581", "\ue5f8", "\ue5f9"
_TO_ESCAPE = re.compile(f"[{SPACE_MARK}{STAND_IN}{ESCAPE}]")
_ESCAPED = re.compile(f"{ESCAPE}([{STAND_IN}{ESCAPE}])|{STAND_IN}")
_WORDS = re.compile(f"{SPACE_MARK}?[^{SPACE_MARK}]+|{SPACE_MARK}")
# The trainer drops a whole sentence that holds one of these (its own marks); the text given to it has a space instead.
_TRAINER_MARKS = re.compile("[\x00\t\n\u2585]")
_TRAINER_CHARACTERS = 1000  # it drops sentences over 4192 bytes: longer ones are given in cuts of this length
_LONGEST_SAMPLED_WORD = 64  # a longer run without a space is sampled in parts, so that the time stays linear


def escape(text: str) -> str:
    """Write ▁ so that it cannot be taken for a space."""
    return _TO_ESCAPE.sub(lambda m: STAND_IN if m[0] == SPACE_MARK else ESCAPE + m[0], text)


def unescape(text: str) -> str:
    """Undo `escape`; of any other text, leave what is no escape as it is."""
    return _ESCAPED.sub(lambda m: m[1] or SPACE_MARK, text)


@dataclass(frozen=True, eq=False)
class SubwordTokenizer:
    """A sentencepiece model, unigram or BPE, with byte pieces for characters that it has not seen.

    `sampling` is the BPE-dropout rate (Provilkov et al. 2020) or unigram's alpha (Kudo 2018); 0 is off. The last
    `added` pieces were appended after training; their text is never cut (see `itda.text.extend`).
    """

    kind: str
    model: str
    normalization: str
    sampling: float
    proto: bytes
    added: int = 0

    @functools.cached_property
    def _processor(self) -> sentencepiece.SentencePieceProcessor:
        return sentencepiece.SentencePieceProcessor(model_proto=self.proto)

    @functools.cached_property
    def _bytes(self) -> list[bytes]:
        """The bytes that each id stands for; special ones stand for none."""
        get = self._processor
        return [
            b"" if get.IsControl(i) or get.IsUnknown(i)
            else bytes([int(get.IdToPiece(i)[3:5], 16)]) if get.IsByte(i)
            else get.IdToPiece(i).replace(SPACE_MARK, " ").encode("utf-8")
            for i in range(self.vocab_size)
        ]  # fmt: skip

    @functools.cached_property
    def matched(self) -> dict[str, int]:
        """The id of each piece that text can match."""
        get = self._processor
        matched = (i for i in range(self.vocab_size) if not (get.IsControl(i) or get.IsUnknown(i) or get.IsByte(i)))
        return {get.IdToPiece(i): i for i in matched}

    @functools.cached_property
    def _added_pieces(self) -> re.Pattern[str]:
        """Find the added pieces in marked text as sentencepiece does: from the left, the longest first."""
        pieces = [self.piece(number) for number in range(self.vocab_size - self.added, self.vocab_size)]
        return re.compile("(" + "|".join(map(re.escape, sorted(pieces, key=len, reverse=True))) + ")")

    @functools.cached_property
    def _first_byte(self) -> int:
        """The id of the byte piece <0x00>; the others follow it."""
        return int(self._processor.PieceToId("<0x00>"))

    @functools.cached_property
    def _sampler(self) -> Callable[[str, random.Random], list[str]]:
        trained = self.vocab_size - self.added
        scores = {piece: float(self._processor.GetScore(i)) for piece, i in self.matched.items() if i < trained}
        if self.model == "bpe":
            return lambda word, random: bpe_dropout(word, scores, self.sampling, random)
        longest, unseen = max(map(len, scores)), min(scores.values()) - 10.0  # sentencepiece's own penalty
        lattice = functools.lru_cache(maxsize=1 << 15)(
            lambda word: word_lattice(word, scores, longest, unseen, self.sampling)
        )
        return lambda word, random: sample_lattice(word, lattice(word), random)

    def piece(self, number: int) -> str:
        """Give the text that an id matches, as sentencepiece writes it."""
        return str(self._processor.IdToPiece(number))

    def ids_of_piece(self, piece: str) -> list[int]:
        """Cut a text that is written as sentencepiece writes its pieces."""
        return list(self._processor.Encode(piece, out_type=int))

    def is_reserved(self, piece: str) -> bool:
        """Say whether a text is the name of a special id or of a byte."""
        return (piece not in self.matched and self._processor.PieceToId(piece) != UNK) or piece == self.piece(UNK)

    @property
    def vocab_size(self) -> int:
        """Count the pieces, special and byte pieces included."""
        return int(self._processor.vocab_size())

    @property
    def deterministic(self) -> bool:
        """Say whether `sample` always equals `encode`."""
        return self.sampling == 0

    def normalize(self, text: str) -> str:
        """Apply the stated Unicode normal form."""
        return normalize(text, self.normalization)

    def _marked(self, text: str) -> str:
        """Give a text as sentencepiece is to see it: normalised, escaped, with a space in front."""
        return " " + escape(self.normalize(text)) if text else ""

    def encode(self, text: str) -> list[int]:
        """Turn a text into the ids of its best segmentation; never a special id."""
        return list(self._processor.Encode(self._marked(text), out_type=int))

    def sample(self, text: str, random: random.Random) -> list[int]:
        """Turn a text into the ids of a segmentation drawn with `random`; the best one where sampling is off."""
        if self.deterministic:
            return self.encode(text)
        ids: list[int] = []
        marked = self._marked(text).replace(" ", SPACE_MARK)
        runs = self._added_pieces.split(marked) if self.added else [marked]
        for number, run in enumerate(runs):
            if number % 2:  # an added piece stands between each two runs
                ids.append(self.matched[run])
            else:
                self._sample_run(run, random, ids)
        return ids

    def _sample_run(self, run: str, random: random.Random, ids: list[int]) -> None:
        """Sample each word of a run of marked text; its ids go behind `ids`."""
        known = self.matched
        for word in _WORDS.findall(run):
            for start in range(0, len(word), _LONGEST_SAMPLED_WORD):
                for piece in self._sampler(word[start : start + _LONGEST_SAMPLED_WORD], random):
                    if piece in known:
                        ids.append(known[piece])
                    else:
                        ids.extend(self._first_byte + byte for byte in piece.encode("utf-8"))

    @functools.cached_property
    def spelling(self) -> list[bytes]:
        """The bytes that each id adds to a raw output, which `finish` turns into text."""
        return [SPECIALS[UNK].encode() if i == UNK else spelled for i, spelled in enumerate(self._bytes)]

    def parts(self, text: str, inside: bool = False) -> list[tuple[int, bytes]]:
        """Cut a text into ids with the bytes of each; `inside`: as what goes on right behind other text."""
        marked = escape(self.normalize(text)) if inside else self._marked(text)
        ids = list(self._processor.Encode(marked, out_type=int)) if marked else []
        return [(i, self.spelling[i]) for i in ids]

    def finish(self, raw: bytes) -> str:
        """Turn a raw output into text; bytes that are no UTF-8 (a model may write some) become U+FFFD."""
        return unescape(raw.decode("utf-8", "replace").removeprefix(" "))

    def decode(self, ids: Sequence[int], unknown: Mapping[int, str] | None = None) -> str:
        """Turn ids back into text; bytes that are no UTF-8 (a model may write some) become U+FFFD.

        `unknown[position]` stands in for an UNK at that position of `ids`.
        """
        table = self._bytes
        if UNK not in ids:
            joined = b"".join([table[i] for i in ids])
        else:
            named = {
                p: escape((unknown or {}).get(p, SPECIALS[UNK])).encode("utf-8", "replace")
                for p, i in enumerate(ids)
                if i == UNK
            }
            joined = b"".join([named[p] if i == UNK else table[i] for p, i in enumerate(ids)])
        return self.finish(joined)

    def pieces(self, ids: Sequence[int]) -> list[str]:
        """Name each id for a reader; ▁ marks a space, a byte of an unseen character is written <0xE2>."""
        return [SPECIALS[i] if i < len(SPECIALS) else unescape(str(self._processor.IdToPiece(int(i)))) for i in ids]

    def surfaces(self, text: str) -> list[str]:
        """Give the text behind each id of `encode(text)`, without the space in front of a word."""
        return [piece.removeprefix(SPACE_MARK) or " " for piece in self.pieces(self.encode(text))]

    def to_bytes(self) -> bytes:
        """Write the model as sentencepiece's own file format."""
        return self.proto


def open_subwords(
    proto: bytes, kind: str, model: str, normalization: str, sampling: float, name: str, added: int = 0
) -> SubwordTokenizer:
    """Read what `to_bytes` wrote."""
    tokenizer = SubwordTokenizer(kind, model, normalization, sampling, proto, added)
    try:
        _ = tokenizer._processor
    except RuntimeError as error:
        raise DamagedFileError(f"{name} is not a sentencepiece model ({error}); restore it, or train again.") from None
    return tokenizer


def train_subwords(texts: Iterable[str], model: str, vocab_size: int, coverage: float) -> bytes:
    """Train a sentencepiece model on normalised texts; a vocabulary that the text cannot fill comes out smaller."""
    out = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_trainer_lines(texts), model_writer=out, model_type=model, vocab_size=vocab_size,
            hard_vocab_limit=False, character_coverage=coverage, byte_fallback=True,
            normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=False,
            pad_id=PAD, unk_id=UNK, bos_id=BOS, eos_id=EOS,
            num_threads=1, minloglevel=2,  # one thread: the sums of EM, and so the model, depend on how they are cut
        )  # fmt: skip
    except RuntimeError as error:
        sizes = re.search(r"smaller than required_chars. (\d+) vs (\d+)", str(error))
        if sizes is None:
            raise UserError(f"sentencepiece cannot train on this text: {error}") from None
        raise UserError(
            f"tokenizer.vocab_size is {vocab_size}; it must be {sizes[2]} or more for this text (its "
            "characters, 256 bytes and 4 special entries); raise it, lower "
            "tokenizer.character_coverage, or choose tokenizer.kind = characters."
        ) from None
    return out.getvalue()


def _trainer_lines(texts: Iterable[str]) -> Iterator[str]:
    for text in texts:
        marked = _TRAINER_MARKS.sub(" ", " " + escape(text))
        for start in range(0, len(marked), _TRAINER_CHARACTERS):
            yield marked[start : start + _TRAINER_CHARACTERS]
