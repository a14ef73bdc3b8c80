"""Seq2Seq: text in, text out. A trained model with its tokenizers, and all that one asks of it."""

from __future__ import annotations

import numbers
import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from itda.batch import EOS, SPECIALS, UNK, Batch, Vectors, pad_vectors, token_batch
from itda.build import build_model
from itda.config import Config, parse
from itda.data.lexicon import Lexicon
from itda.decode import ensemble
from itda.decode.hypothesis import Hypothesis as Hypothesis
from itda.decode.request import Request
from itda.decode.scores import Scoring
from itda.decode.tree import SearchTree
from itda.decode.writer import Writer
from itda.errors import UserError
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.int8 import round_model
from itda.nn.rounded import weight_limit
from itda.run import RunFolder
from itda.text.tokenizer import TokenizerPair, load_tokenizers
from itda.text.wrapped import plain_text, tagged

BATCH = 64  # pairs scored together, unless the caller says otherwise
CHUNK = 2048  # lines that a stream holds: sorted by length within, given back in order
CHARACTERS = 1 << 18  # and no more characters than these, one line aside
POSITIONS = 1 << 14  # padded positions of a side that are scored together
EOS_NAME = SPECIALS[EOS]
DEVICES = ("cpu", "cuda", "mps")
WISHES = ("sample", "prefix", "must", "must_not", "terminology", "placeholders")


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
    lexicon: Lexicon | None = None

    @classmethod
    def load(
        cls,
        path: str | Path | Sequence[str | Path],
        device: str | torch.device = "cpu",
        average: str = "probabilities",
        int8: bool = False,
    ) -> Seq2Seq:
        """Open a run folder, or several as one ensemble; nothing is unpickled, and a damaged file is an error.

        An ensemble chooses by the mean of its members' `average`: probabilities, or log-probabilities. With `int8`,
        matrices are rounded for quicker products on a CPU (docs/reference/decoding.md).
        """
        if not isinstance(path, (str, Path)):
            if not isinstance(path, Iterable):
                raise UserError(f"load takes the path of a run folder, or a list of them; got {path!r:.60}.")
            return join([cls.load(one, device, int8=int8) for one in path], average)
        run = RunFolder.open(Path(path))
        config = parse(run.read_config(), source=str(run.config_path))
        tokenizers = None
        if config.data.kind == "text":
            run.verify("tokenizer")
            tokenizers = load_tokenizers(run.tokenizer_path)
        model = build_model(config, *(tokenizers.sizes() if tokenizers else (0, 0)))
        run.load_weights(model)
        place = find_device(device)
        if int8:
            check_int8(place)
            round_model(model)
        lexicon = run.read_shortlist(*tokenizers.sizes()[:2]) if tokenizers else None
        return cls(config, model.to(place).eval(), tokenizers, run.path, place, lexicon)

    def generate(
        self,
        texts: Iterable[str],
        *,
        n_best: int = 1,
        batch_size: int | None = None,
        workers: int | None = None,
        attention: bool = True,
        **asked: Any,
    ) -> list[Hypothesis]:
        """Write the best output for each text, in order; `asked` are settings of [decode], such as beam_size=5, and:

        `sample` (True, itda.Sampling(...) or a mapping) draws `n_best` samples. `prefix` is what the output begins
        with, `must` and `must_not` are phrases that stand in it or do not: one for all texts, or a list, one for each.
        `terminology` (a TSV file or a mapping) says how terms of the source are written, and `placeholders` (True or
        a pattern) are copied through. docs/reference/decoding.md tells what composes with what. `target_language` is
        what a many-to-many model is to write (one for all, or a list), where texts do not begin with a tag themselves.

        A blank text gives a blank output. A text over the recipe's max_src_length is cut, with a warning.

        Nothing that follows changes a result: `batch_size` is the most sentences that are decoded together, `workers`
        how many batches at the same time (both are chosen for speed where they are not given), and without `attention`
        the outputs carry none, which saves its time.
        """
        if isinstance(texts, str):
            raise UserError("generate takes a list of texts, got one text; write generate([text]).")
        check_iterable(texts, "generate", "texts")
        found = list(
            self.generate_lazily(
                texts, n_best=n_best, batch_size=batch_size, workers=workers, attention=attention, **asked
            )
        )
        for hypothesis in found:
            if hypothesis.notice:
                warnings.warn(hypothesis.notice, stacklevel=2)
        return found

    def generate_lazily(
        self,
        texts: Iterable[str],
        *,
        n_best: int = 1,
        batch_size: int | None = None,
        workers: int | None = None,
        attention: bool = True,
        chunk: int = CHUNK,
        **asked: Any,
    ) -> Iterator[Hypothesis]:
        """Generate as the texts come: `chunk` lines are read, decoded in batches of similar length, given in order.

        `asked` is what `generate` takes too.
        """
        check_iterable(texts, "generate_lazily", "texts")
        given = {"batch_size": batch_size, "workers": workers}
        check_count(n_best=n_best, chunk=chunk, **{name: one for name, one in given.items() if one is not None})
        writer = self._writer(n_best, asked, attention)
        lines, count = checked(texts), 0
        with writer.crew(workers) as crew:
            while held := take(lines, chunk, CHARACTERS):
                yield from writer.write(held, crew, batch_size)
                count += len(held)
        writer.request.asked.check_all_used(count)

    def stream(self, text: str, *, number: int = 1, **asked: Any) -> Iterator[str]:
        """Write the output for one text piece by piece, as it becomes sure; joined, they are what `generate` gives.

        With a beam, what all live hypotheses begin with is sure, and nothing is ever taken back. `number` is that
        of the text where `asked` holds lists with one wish for each.
        """
        if not isinstance(text, str):
            raise UserError(f"stream takes one text, got {text!r:.60}; for many, use generate or generate_lazily.")
        if asked.pop("n_best", None) not in (None, 1):
            raise UserError("stream writes one output, and n_best asks for more: leave one out, or use generate.")
        return self._writer(1, asked).stream(text, number)

    def search_tree(self, text: str, *, n_best: int = 1, **asked: Any) -> SearchTree:
        """Search for the output of one text, and report all that was ever in the beam."""
        check_count(n_best=n_best)
        return self._writer(n_best, asked).tree(text)

    def _writer(self, n_best: int, asked: dict[str, Any], attention: bool = True) -> Writer:
        request, tokenizers = Request.of(self.config.decode, n_best=n_best, **asked), self._tokenizers()
        if request.decode.shortlist == "on" and self.lexicon is None:
            raise UserError(
                f'shortlist is "on", and {self.path or "this model"} has none; make one: '
                f'itda shortlist {self.path or "RUN"}, or set shortlist to "off"'
            )
        limit = self.config.data.max_src_length
        return Writer(self.model.eval(), tokenizers, limit, self.device, request, self.lexicon, attention)

    @torch.inference_mode()
    def score(
        self, pairs: Iterable[tuple[str, str]], *, batch_size: int = BATCH, target_language: str = ""
    ) -> list[PairScore]:
        """Give log p(target | source) of each pair under teacher forcing, with eos; nothing is cut."""
        tokenizers = self._tokenizers()
        check_count(batch_size=batch_size)
        check_iterable(pairs, "score", "pairs (source text, target text)")
        encoded = []
        for number, pair in enumerate(pairs, start=1):
            whole = isinstance(pair, Sequence) and not isinstance(pair, str) and len(pair) == 2
            if not whole or not all(isinstance(side, str) for side in pair):
                raise UserError(f"pair {number} is {pair!r:.60}; it must be (source text, target text).")
            try:
                src = tokenizers.src.encode(tagged(tokenizers.src, pair[0], target_language))
                encoded.append((src, tokenizers.tgt.encode(pair[1])))
            except UserError as error:
                raise UserError(f"pair {number}: {error}") from None
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

    def attention(self, src: str, tgt: str, *, target_language: str = "") -> Hypothesis:
        """The attention over `src` while `tgt` is forced, as a `Hypothesis` whose text is `tgt`.

        What is over the recipe's max_src_length or max_tgt_length is cut, with a warning.
        """
        found = self.forced(src, tgt, target_language=target_language)
        if found.notice:
            warnings.warn(found.notice, stacklevel=2)
        return found

    @torch.inference_mode()
    def forced(self, src: str, tgt: str, *, target_language: str = "") -> Hypothesis:
        """The same without a warning: `notice` says what was cut."""
        tokenizers, data = self._tokenizers(), self.config.data
        for name, text in (("source", src), ("target", tgt)):
            if not isinstance(text, str):
                raise UserError(f"the {name} is {text!r:.60}, of type {type(text).__name__}; it must be a str.")
        src = tagged(tokenizers.src, src, target_language)
        src_ids, tgt_ids = tokenizers.src.encode(src), tokenizers.tgt.encode(tgt)
        cuts = []
        if len(src_ids) > data.max_src_length:
            cuts.append(
                f"the source has {len(src_ids)} tokens and was cut to {data.max_src_length} (data.max_src_length)"
            )
            src_ids = src_ids[: data.max_src_length]
        if len(tgt_ids) > data.max_tgt_length:
            cuts.append(
                f"the target has {len(tgt_ids)} tokens and was cut to {data.max_tgt_length} (data.max_tgt_length)"
            )
            tgt_ids = tgt_ids[: data.max_tgt_length]
            tgt = tokenizers.tgt.decode(tgt_ids)
        batch = token_batch([src_ids], [tgt_ids]).to(self.device)
        decoded = self.model.eval()(batch, weights=True)
        score = self.score_batch(batch)[0]
        decode = self.config.decode
        scoring = Scoring(decode.length_normalization, decode.length_penalty)
        return Hypothesis(
            tgt,
            scoring.normalize(score.log_prob, score.tokens),
            score.log_prob,
            tuple(tokenizers.tgt.pieces(tgt_ids)),
            tuple(tokenizers.src.pieces(src_ids)),
            score.token_log_probs,
            decoded.weights[0].cpu().numpy() if decoded.weights is not None else None,
            notice="; ".join(cuts),
        )

    def words(self, side: str, text: str) -> str:
        """Give a text of a side (src, tgt) without the tag and the features that stand in it."""
        return plain_text(getattr(self._tokenizers(), side), text)

    def token_names(
        self, src: str, tgt: str | None, found: Hypothesis, target_language: str = ""
    ) -> tuple[list[str], list[str]]:
        """Name the tokens of source and output for a reader, an unknown one by the text that it stands for.

        `tgt` is the target that was forced, or None: what a model writes as unknown has no other name.
        """
        tokenizers = self._tokenizers()
        src, names = tagged(tokenizers.src, src, target_language), []
        for tokenizer, text, tokens in ((tokenizers.src, src, found.src_tokens), (tokenizers.tgt, tgt, found.tokens)):
            surfaces = tokens if text is None else tokenizer.surfaces(text)
            names.append([real if token == SPECIALS[UNK] else token for token, real in zip(tokens, surfaces)])  # noqa: B905
        return names[0], names[1]

    @torch.inference_mode()
    def predict(self, series: Iterable[Any], length: int) -> Float[Tensor, "batch length dim"]:
        """Predict `length` vectors for each source, each fed back as the next input: no teacher forcing.

        A source is a tensor, an array or a list of shape (length, dim); their lengths may differ.
        """
        if self.config.data.kind != "vectors":
            raise UserError("predict is for data.kind = vectors; this model reads text: use generate.")
        check_count(length=length)
        check_iterable(series, "predict", "sources")
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


def join(members: Sequence[Seq2Seq], average: str = "probabilities") -> Seq2Seq:
    """Make one of several models that share their vocabularies; the settings are those of the first."""
    if not members:
        raise UserError("an ensemble of no runs was asked for; name one or more.")
    if average not in ensemble.AVERAGES:
        raise UserError(f"average is {average!r}; it must be one of {', '.join(ensemble.AVERAGES)}")
    first = members[0]
    for number, other in enumerate(members[1:], start=2):
        for side in ("src", "tgt"):
            one, another = getattr(first._tokenizers(), side), getattr(other._tokenizers(), side)
            if (one.kind, one.normalization, one.to_bytes()) != (
                another.kind,
                another.normalization,
                another.to_bytes(),
            ):
                names = f"{first.path or 'model 1'} and {other.path or f'model {number}'}"
                raise UserError(
                    f"{names} differ in the vocabulary of the {'source' if side == 'src' else 'target'}; the members "
                    "of an ensemble must share theirs: train them with the same tokenizer settings on the same text"
                )
    if len(members) == 1:
        return first
    model = ensemble.join([member.model for member in members], average)
    return replace(first, model=model.to(first.device).eval())


def find_device(name: str | torch.device) -> torch.device:
    """The device of a name; `auto` is cuda where there is one. UserError where this machine has no such device."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in DEVICES:
            raise NotImplementedError(f"nothing is computed on {device.type}")
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError, TypeError) as error:
        allowed = "auto, cpu" + (", cuda" if torch.cuda.is_available() else "")
        raise UserError(f"device is {name}, which PyTorch cannot use here; it may be {allowed}") from error
    return device


def check_int8(device: torch.device) -> None:
    """Refuse int8 where there is no exact int8 product."""
    if device.type != "cpu":
        raise UserError(f"int8 is for a CPU, and device is {device}; leave int8 out, or choose device cpu")
    if not weight_limit():
        raise UserError(f"int8 needs products that torch {torch.__version__} does not have on this CPU; leave int8 out")


def checked(texts: Iterable[str]) -> Iterator[tuple[int, str]]:
    """Number the texts from 1, and refuse what is none."""
    for number, text in enumerate(texts, start=1):
        if not isinstance(text, str):
            raise UserError(f"text {number} is {text!r:.60}, of type {type(text).__name__}; it must be a str.")
        yield number, text


def check_iterable(given: Any, verb: str, what: str) -> None:
    """Refuse what cannot be gone through."""
    if not isinstance(given, Iterable):
        raise UserError(f"{verb} takes a list of {what}, got {given!r:.60}.")


def check_count(**counts: Any) -> None:
    """Refuse what is not a whole number of 1 or more; numpy's are whole numbers too."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < 1:
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
