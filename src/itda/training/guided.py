"""Guided alignment: attention is taught where to look (Chen et al. 2016, arXiv 1607.01628; Garg et al. 2019).

What is taught is `Decoded.weights`, the alpha that everything else reads: alignments, pictures, <unk> replacement,
the coverage penalty. That of a Transformer is the mean over the heads of its last layer (docs/design/0014).
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from itda.batch import Batch
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Sums


def guided_likelihood(model: EncoderDecoder, batch: Batch, weight: float) -> Sums:
    """Likelihood plus weight x the cross-entropy between the given alignment and alpha, which `parts` holds too."""
    assert batch.alignment is not None, "guided alignment needs a batch with its alignment"
    memory = model.encode(batch.src)
    decoded = model.decoder(batch.tgt_in, memory, weights=True)
    assert decoded.weights is not None, "guided alignment needs a decoder with attention"
    sums = model.head.loss(decoded, batch.tgt_out, memory)
    guidance = alignment_loss(decoded.weights, batch.alignment)
    return Sums(sums.nll, sums.objective + weight * guidance, sums.count, {"alignment": guidance.detach()})


def alignment_loss(
    alpha: Float[Tensor, "batch tgt src"], alignment: Float[Tensor, "batch tgt src"]
) -> Float[Tensor, ""]:
    """-sum_t sum_i G_{t,i} log alpha_{t,i}, in nats; a row of G sums to 1, or to 0 where nothing is said of t."""
    linked = alignment > 0
    # A weight may underflow to 0; the smallest number there is still has a gradient that leads away from it.
    logs = alpha[linked].float() if alpha.dtype in (torch.float16, torch.bfloat16) else alpha[linked]
    logs = logs.clamp(min=torch.finfo(logs.dtype).tiny).log()
    return -(alignment[linked].to(logs.dtype) * logs).sum()
