"""EncoderDecoder: an encoder, a decoder and a head, composed."""

from __future__ import annotations

from jaxtyping import Bool, Float
from torch import Tensor, nn

from itda.batch import Batch, Side
from itda.nn.interface import Decoded, Decoder, Encoder, Head, Memory, Sums


class EncoderDecoder(nn.Module):
    """Any encoder, any decoder, any head."""

    def __init__(self, encoder: Encoder, decoder: Decoder, head: Head) -> None:
        super().__init__()
        self.encoder, self.decoder, self.head = encoder, decoder, head

    def encode(self, src: Side) -> Memory:
        """The memory of a source side."""
        memory: Memory = self.encoder(src)
        return memory

    def forward(self, batch: Batch, *, weights: bool = False) -> Decoded:
        """Decode under teacher forcing."""
        decoded: Decoded = self.decoder(batch.tgt_in, self.encode(batch.src), weights=weights)
        return decoded

    def loss(self, batch: Batch) -> Sums:
        """Sums over the batch, under teacher forcing: the likelihood, in training and validation alike."""
        memory = self.encode(batch.src)
        return self.head.loss(self.decoder(batch.tgt_in, memory), batch.tgt_out, memory)

    def scores(self, batch: Batch) -> tuple[Float[Tensor, "rows tgt"], Bool[Tensor, "rows tgt"]]:
        """The nll of each target position and whether the target was the first choice, under teacher forcing."""
        memory = self.encode(batch.src)
        return self.head.scores(self.decoder(batch.tgt_in, memory), batch.tgt_out, memory)
