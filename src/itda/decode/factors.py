"""Factors of what was written: chosen word by word once the words stand, so that no search knows of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from itda.batch import BOS, EOS, pad_tokens
from itda.decode.history import Found
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Memory

TOGETHER = 64  # hypotheses that are read again at a time


@torch.inference_mode()
def add_factors(
    model: EncoderDecoder, memory: Memory, found: Sequence[Sequence[Found]], vocab_size: int
) -> list[list[Found]]:
    """Give each word of each hypothesis its most probable factors, as packed ids; all else stays as it is."""
    owners = [sentence for sentence, many in enumerate(found) for _ in many]
    flat = [one for many in found for one in many]
    packed: list[tuple[int, ...]] = []
    for start in range(0, len(flat), TOGETHER):
        some = flat[start : start + TOGETHER]
        kept = torch.tensor(owners[start : start + TOGETHER], device=memory.mask.device)
        tgt_in = pad_tokens([[BOS, *one.ids] for one in some]).to(memory.mask.device)
        words = pad_tokens([[*one.ids, EOS] for one in some]).to(memory.mask.device)
        decoded, ids, unit = model.decoder(tgt_in, memory.select(kept)), words.ids, vocab_size
        for log_probs in model.head.factors(decoded, words.ids):
            ids = ids + unit * log_probs.argmax(dim=-1)
            unit *= log_probs.shape[-1]
        packed += [tuple(row[: len(one.ids)]) for row, one in zip(ids.tolist(), some, strict=True)]
    answers = iter(packed)
    return [[replace(one, ids=next(answers)) for one in many] for many in found]
