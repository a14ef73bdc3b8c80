"""Minimum-risk training: the expected loss of what the model would write (Shen et al. 2016, arXiv 1512.02433).

    Q(y) = p(y|x)^a / sum_{y' in S} p(y'|x)^a        R = sum_{y in S} Q(y) (1 - metric(y, reference))

S are distinct samples from the model, and the reference where that is wished for. Each is scored again under teacher
forcing, and the gradient flows through these scores.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.batch import Batch, Tokens, token_batch
from itda.config import DecodeConfig
from itda.decode.sampling import Sampling, sample_keys
from itda.decode.search import Search
from itda.decode.settings import Settings
from itda.evaluate.sentence import sentence_score
from itda.nn.encoder_decoder import EncoderDecoder
from itda.text.tokenizer import Tokenizer

Ids = tuple[int, ...]
Candidates = Callable[[EncoderDecoder, Batch, int], list[list[Ids]]]
"""(model, batch, step) -> the distinct candidates of each sentence, without eos."""
Risk = Callable[[Ids, Ids], float]
"""(candidate, reference) -> what writing the one for the other costs, from 0 (nothing) to 1."""


@dataclass(frozen=True)
class Sampler:
    """Draws candidates, by coins that depend on nothing but seed, update, source and number of the sample."""

    samples: int
    reference: bool
    seed: int
    decode: DecodeConfig

    @torch.no_grad()
    def __call__(self, model: EncoderDecoder, batch: Batch, step: int) -> list[list[Ids]]:
        """Draw without dropout, as the model will write; equal samples count once."""
        training = model.training
        with torch.autocast(batch.src.mask.device.type, enabled=False):
            found = self._draw(model.eval(), batch, step)
        model.train(training)
        if self.reference:
            found = [[ids, *one] for ids, one in zip(rows_of(batch.tgt_out), found, strict=True)]
        return [list(dict.fromkeys(one)) for one in found]

    def _draw(self, model: EncoderDecoder, batch: Batch, step: int) -> list[list[Ids]]:
        sources = rows_of(batch.src)
        sampling = Sampling(seed=self.seed * 1_000_003 + step)
        lengths = torch.tensor([len(source) for source in sources])
        limits = (lengths * self.decode.max_length_ratio).long() + self.decode.max_length_extra
        keys = sample_keys(sampling.seed, sources, self.samples)
        settings = Settings(1, self.samples, sampling=sampling)
        search = Search(model.decoder, model.head, model.encode(batch.src), limits, settings, keys=keys)
        return [[tuple(one.ids) for one in samples] for samples in search.run()]


def rows_of(side: object) -> list[Ids]:
    """The ids of each row, without eos."""
    assert isinstance(side, Tokens), "minimum risk is for text"
    lengths = side.mask.sum(1).tolist()
    return [tuple(row[: length - 1]) for row, length in zip(side.ids.tolist(), lengths, strict=True)]


def text_risk(metric: str, tokenizer: Tokenizer) -> Risk:
    """1 - metric, on text."""
    decode = functools.lru_cache(maxsize=4096)(tokenizer.decode)
    return lambda candidate, reference: 1.0 - sentence_score(metric, decode(candidate), decode(reference))


def expected_risk(
    model: EncoderDecoder, batch: Batch, candidates: Sequence[Sequence[Ids]], risk: Risk, sharpness: float
) -> Float[Tensor, " sentences"]:
    """R of each sentence, with gradients."""
    owners = torch.tensor([row for row, some in enumerate(candidates) for _ in some], device=batch.src.mask.device)
    places = torch.tensor([place for some in candidates for place in range(len(some))], device=owners.device)
    log_probs = sequence_log_probs(model, batch, [ids for some in candidates for ids in some], owners)
    references = rows_of(batch.tgt_out)
    risks = [risk(ids, wanted) for some, wanted in zip(candidates, references, strict=True) for ids in some]
    # flat candidates to (sentences, most candidates of one)
    table = log_probs.new_full((len(candidates), max(map(len, candidates))), -torch.inf)
    shares = table.index_put((owners, places), sharpness * log_probs).softmax(1)
    return (shares * torch.zeros_like(table).index_put((owners, places), log_probs.new_tensor(risks))).sum(1)


def sequence_log_probs(
    model: EncoderDecoder, batch: Batch, targets: Sequence[Ids], owners: Int[Tensor, " targets"]
) -> Float[Tensor, " targets"]:
    """log p(y|x) of each target, eos included, under teacher forcing; each source is encoded once."""
    memory = model.encode(batch.src).select(owners)
    forced = token_batch([()] * len(targets), targets).to(owners.device)
    nll = model.head.token_nll(model.decoder(forced.tgt_in, memory), forced.tgt_out, memory)
    return -nll.sum(1)
