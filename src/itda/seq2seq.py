"""Seq2Seq: text in, text out. A trained model with its tokenizers, and all that one asks of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from itda.batch import EOS, SPECIALS, UNK, Batch, Vectors, pad_tokens, pad_vectors, token_batch
from itda.build import build_model
from itda.config import Config, DecodeConfig, parse, read_text
from itda.config.keys import Setting, lookup
from itda.decode.history import Found
from itda.decode.search import beam_search
from itda.errors import UserError
from itda.nn.encoder_decoder import EncoderDecoder
from itda.run import RunFolder
from itda.text.tokenizer import TokenizerPair, load_tokenizers

BATCH = 64  # sentences decoded together, unless the caller says otherwise
CHUNK = 2048  # lines that a stream holds: sorted by length within, given back in order
CHARACTERS = 1 << 18  # and no more characters than these, one line aside
POSITIONS = 1 << 14  # padded positions of a side that are scored together
EOS_NAME = SPECIALS[EOS]


@dataclass(frozen=True)
class Hypothesis:
    """One output. `score` is the length-normalised log-probability that it was chosen by, `log_prob` its sum in nats.

    `alignment` links each output token to the source token with the largest alpha, as (source, target) positions
    without eos; empty where the model has no attention. `attention` is alpha itself, (tokens + eos) x (source
    tokens + eos). `n_best` holds all hypotheses of the search, this one first; `notice` says what was cut.
    """

    text: str
    score: float
    log_prob: float
    tokens: tuple[str, ...]
    src_tokens: tuple[str, ...]
    token_log_probs: tuple[float, ...] = ()
    attention: Float[ndarray, "tgt src"] | None = None
    n_best: tuple[Hypothesis, ...] = ()
    notice: str = ""

    @property
    def alignment(self) -> list[tuple[int, int]]:
        """Hard links (source position, target position)."""
        if self.attention is None or not self.src_tokens:
            return []
        rows = self.attention[: len(self.tokens), : len(self.src_tokens)]
        return [(int(row.argmax()), position) for position, row in enumerate(rows)]


@dataclass(frozen=True)
class PairScore:
    """The likelihood of a given target under teacher forcing; eos counts as a token. `nll` in nats."""

    nll: float
    tokens: int
    correct: int
    token_log_probs: tuple[float, ...]

    @property
    def log_prob(self) -> float:
        """log p(target | source), in nats."""
        return -self.nll


@dataclass
class Seq2Seq:
    """A model ready for use. The model is switched to evaluation whenever it is asked something."""

    config: Config
    model: EncoderDecoder
    tokenizers: TokenizerPair | None = None
    path: Path | None = None
    device: torch.device = torch.device("cpu")

    @classmethod
    def load(cls, path: str | Path, device: str | torch.device = "cpu") -> Seq2Seq:
        """Open a run folder; nothing in it is unpickled, and a damaged file is an error that names it."""
        run = RunFolder.open(Path(path))
        config = parse(read_text(run.config_path), source=str(run.config_path))
        tokenizers = None
        if config.data.kind == "text":
            run.verify("tokenizer")
            tokenizers = load_tokenizers(run.tokenizer_path)
        sizes = (tokenizers.src.vocab_size, tokenizers.tgt.vocab_size) if tokenizers else (0, 0)
        model = build_model(config, *sizes)
        run.load_weights(model)
        place = find_device(device)
        return cls(config, model.to(place).eval(), tokenizers, run.path, place)

    def generate(
        self, texts: Iterable[str], *, n_best: int = 1, batch_size: int = BATCH, **settings: Any
    ) -> list[Hypothesis]:
        """Write the best output for each text, in order; `settings` are those of [decode], such as beam_size=5.

        A blank text gives a blank output. A text over the recipe's max_src_length is cut, with a warning.
        """
        if isinstance(texts, str):
            raise UserError("generate takes a list of texts, got one text; write generate([text]).")
        found = list(self.stream(texts, n_best=n_best, batch_size=batch_size, **settings))
        for hypothesis in found:
            if hypothesis.notice:
                warnings.warn(hypothesis.notice, stacklevel=2)
        return found

    def stream(
        self, texts: Iterable[str], *, n_best: int = 1, batch_size: int = BATCH, chunk: int = CHUNK, **settings: Any
    ) -> Iterator[Hypothesis]:
        """Generate lazily: `chunk` lines are read, decoded in batches of similar length, and given back in order."""
        decode = decode_settings(self.config.decode, settings)
        check_count(batch_size=batch_size, n_best=n_best, chunk=chunk)
        lines = checked(texts)
        while held := take(lines, chunk, CHARACTERS):
            yield from self._decode_chunk(held, decode, n_best, batch_size)

    def _decode_chunk(
        self, lines: list[tuple[int, str]], decode: DecodeConfig, n_best: int, batch_size: int
    ) -> list[Hypothesis]:
        tokenizer, limit = self._tokenizers().src, self.config.data.max_src_length
        encoded, notices = list[list[int]](), list[str]()
        for number, text in lines:
            ids = tokenizer.encode(text) if text.strip() else []
            cut = f"line {number}: the source has {len(ids)} tokens and was cut to {limit} (data.max_src_length)"
            notices.append(cut if len(ids) > limit else "")
            encoded.append(ids[:limit])
        answers = [Hypothesis("", 0.0, 0.0, (), ())] * len(lines)
        order = sorted((place for place, ids in enumerate(encoded) if ids), key=lambda place: len(encoded[place]))
        for start in range(0, len(order), batch_size):
            places = order[start : start + batch_size]
            found = self._search([encoded[place] for place in places], decode, n_best)
            for place, candidates in zip(places, found, strict=True):
                surfaces = tokenizer.surfaces(lines[place][1])[:limit] if decode.replace_unknown else []
                many = tuple(
                    self._hypothesis(one, encoded[place], surfaces, decode.replace_unknown) for one in candidates
                )
                answers[place] = replace(many[0], n_best=many, notice=notices[place])
        return answers

    @torch.inference_mode()
    def _search(self, sources: list[list[int]], decode: DecodeConfig, n_best: int) -> list[list[Found]]:
        side = pad_tokens([[*ids, EOS] for ids in sources]).to(self.device)
        lengths = torch.tensor([len(ids) for ids in sources])
        limits = (lengths * decode.max_length_ratio).long() + decode.max_length_extra
        model = self.model.eval()
        return beam_search(
            model.decoder,
            model.head,
            model.encode(side),
            beam_size=max(decode.beam_size, n_best),
            max_lengths=limits,
            n_best=n_best,
            length_penalty=decode.length_penalty,
            weights=True,
        )

    def _hypothesis(self, found: Found, src_ids: list[int], surfaces: list[str], replace_unknown: bool) -> Hypothesis:
        tokenizers = self._tokenizers()
        unknown = {}
        if replace_unknown and found.weights is not None:
            targets = [position for position, token in enumerate(found.ids) if token == UNK]
            unknown = {
                position: surfaces[int(found.weights[position, : len(src_ids)].argmax())] for position in targets
            }
        return Hypothesis(
            text=one_line(tokenizers.tgt.decode(found.ids, unknown)),
            score=found.score,
            log_prob=found.log_prob,
            tokens=tuple(tokenizers.tgt.pieces(found.ids)),
            src_tokens=tuple(tokenizers.src.pieces(src_ids)),
            token_log_probs=tuple(found.token_log_probs),
            attention=found.weights,
        )

    @torch.inference_mode()
    def score(self, pairs: Iterable[tuple[str, str]], *, batch_size: int = BATCH) -> list[PairScore]:
        """Give log p(target | source) of each pair under teacher forcing, with eos; nothing is cut."""
        tokenizers = self._tokenizers()
        check_count(batch_size=batch_size)
        encoded = []
        for number, pair in enumerate(pairs, start=1):
            if isinstance(pair, str) or len(pair) != 2 or not all(isinstance(side, str) for side in pair):
                raise UserError(f"pair {number} is {pair!r:.60}; it must be (source text, target text).")
            encoded.append((tokenizers.src.encode(pair[0]), tokenizers.tgt.encode(pair[1])))
        scores: list[PairScore | None] = [None] * len(encoded)
        for places in alike([(len(src), len(tgt)) for src, tgt in encoded], batch_size, POSITIONS):
            batch = token_batch([encoded[p][0] for p in places], [encoded[p][1] for p in places])
            for place, one in zip(places, self.score_batch(batch), strict=True):
                scores[place] = one
        return [one for one in scores if one is not None]

    @torch.inference_mode()
    def score_batch(self, batch: Batch) -> list[PairScore]:
        """The same for a collated batch, row by row."""
        batch = batch.to(self.device)
        nll, correct = self.model.eval().scores(batch)
        lengths = batch.tgt_out.mask.sum(1).tolist()
        rows = zip(nll.double().cpu(), correct.cpu(), lengths, strict=True)
        return [PairScore(float(n[:k].sum()), k, int(c[:k].sum()), tuple((-n[:k]).tolist())) for n, c, k in rows]

    @torch.inference_mode()
    def attention(self, src: str, tgt: str) -> Hypothesis:
        """The attention over `src` while `tgt` is forced, as a `Hypothesis` whose text is `tgt`."""
        tokenizers = self._tokenizers()
        src_ids, tgt_ids = tokenizers.src.encode(src), tokenizers.tgt.encode(tgt)
        batch = token_batch([src_ids], [tgt_ids]).to(self.device)
        decoded = self.model.eval()(batch, weights=True)
        score = self.score_batch(batch)[0]
        penalty = float(score.tokens) ** self.config.decode.length_penalty
        return Hypothesis(
            tgt,
            score.log_prob / penalty,
            score.log_prob,
            tuple(tokenizers.tgt.pieces(tgt_ids)),
            tuple(tokenizers.src.pieces(src_ids)),
            score.token_log_probs,
            decoded.weights[0].cpu().numpy() if decoded.weights is not None else None,
        )

    @torch.inference_mode()
    def predict(self, series: Iterable[Any], length: int) -> Float[Tensor, "batch length dim"]:
        """Predict `length` vectors for each source, each fed back as the next input: no teacher forcing.

        A source is a tensor, an array or a list of shape (length, dim); their lengths may differ.
        """
        if self.config.data.kind != "vectors":
            raise UserError("predict is for data.kind = vectors; this model reads text: use generate.")
        if length < 1:
            raise UserError(f"length is {length}; it must be 1 or more.")
        src = self._vectors(series)
        model = self.model.eval()
        memory = model.encode(src.to(self.device))
        state = model.decoder.start(memory)
        previous = memory.states.new_zeros(len(memory.mask), self.config.data.tgt_dim)
        outputs = []
        for _ in range(length):
            decoded, state = model.decoder.step(previous, state)
            previous = model.head.predict(decoded, memory)[:, 0]
            outputs.append(previous)
        return torch.stack(outputs, dim=1)

    def _vectors(self, series: Iterable[Any]) -> Vectors:
        sources, dim = [torch.as_tensor(values) for values in series], self.config.data.src_dim
        if not sources:
            raise UserError("there is no source to predict from; give at least one.")
        wrong = next(
            (source for source in sources if source.dim() != 2 or source.shape[1] != dim or not len(source)), None
        )
        if wrong is not None:
            raise UserError(
                f"a source has the shape {tuple(wrong.shape)}; this model reads data.src_dim = {dim}: "
                f"give a list of sources, each (length, {dim}) with at least one position."
            )
        return pad_vectors(sources)

    def _tokenizers(self) -> TokenizerPair:
        if self.tokenizers is None:
            raise UserError("this model reads real-valued sequences (data.kind = vectors), not text; use predict.")
        return self.tokenizers


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name; `auto` is cuda where there is one. UserError where this machine has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        allowed = "auto, cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise UserError(f"device is {name}, which PyTorch cannot use here; it may be {allowed}") from error
    return device


def checked(texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number the texts from 1, and refuse what is none."""
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise UserError(f"text {number} is {text!r:.60}, of type {type(text).__name__}; it must be a str.")
        yield number, text


def check_count(**counts: int) -> None:
    """Refuse what is not a whole number of 1 or more."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{name} is {value!r}; it must be a whole number, 1 or more.")


def take(lines: Iterator[tuple[int, str]], count: int, characters: int) -> list[tuple[int, str]]:
    """Take so many lines, fewer where they are long: what is held stays small whatever comes in."""
    held, size = list[tuple[int, str]](), 0
    for number, text in lines:
        held.append((number, text))
        size += len(text)
        if len(held) >= count or size >= characters:
            break
    return held


def alike(lengths: Sequence[tuple[int, int]], count: int, positions: int) -> Iterator[list[int]]:
    """Put pairs of similar length together: so many, and no more padded positions a side, one long pair aside."""
    held, longest = list[int](), 0
    for place in sorted(range(len(lengths)), key=lambda place: lengths[place][::-1]):
        longest = max(longest, *lengths[place])
        if held and (len(held) == count or longest * (len(held) + 1) > positions):
            yield held
            held, longest = [], max(lengths[place])
        held.append(place)
    if held:
        yield held


def decode_settings(config: DecodeConfig, settings: dict[str, Any]) -> DecodeConfig:
    """The [decode] section with some settings replaced, each checked as in a recipe; None leaves one as it is."""
    for name, value in settings.items():
        if value is not None:
            known = lookup(f"decode.{name}", "generate")
            assert isinstance(known, Setting), "the decode section has no subsections"
            config = replace(config, **{name: known.check(value, "generate")})
    return config


def one_line(text: str) -> str:
    """Keep an output on its line: a model with byte pieces can write what ends a line, though it never read one."""
    return text.replace("\r", " ").replace("\n", " ")
