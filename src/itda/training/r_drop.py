"""R-Drop: two passes with different dropout shall agree (Liang et al. 2021, arXiv 2106.14448)."""

from __future__ import annotations

from itda.batch import Batch
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Sums


def r_drop(model: EncoderDecoder, batch: Batch, strength: float) -> Sums:
    """The mean loss of two passes, plus strength / 2 x their divergence, (KL(p1 || p2) + KL(p2 || p1)) / 2.

    That is half of what the paper minimises, with its alpha as `strength`: it stands beside the plain loss, and needs
    no other learning rate. `parts` holds the divergence.
    """
    first, second = model(batch), model(batch)  # each draws dropout of its own
    return model.head.paired_loss(first, second, batch.tgt_out, strength)
