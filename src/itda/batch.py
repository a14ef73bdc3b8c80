"""A batch: two sides of aligned sequences, each with a mask that is True on real positions.

Padding is whatever lies under a False mask; no computation may read it. Targets come twice, shifted by
one: `tgt_in` starts with bos (a zero vector for real-valued sequences), `tgt_out` ends with eos.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<bos>", "<eos>")


def is_whole(mask: Bool[Tensor, "batch length"]) -> bool:
    """Whether nothing is padded; said on a CPU only, since asking another device would wait for it."""
    return mask.device.type == "cpu" and bool(mask.all())


@dataclass(frozen=True)
class Tokens:
    """Token ids of a batch of sentences, padded on the right."""

    ids: Int[Tensor, "batch length"]
    mask: Bool[Tensor, "batch length"]

    @functools.cached_property
    def whole(self) -> bool:
        """Whether nothing is padded, where that is known without waiting for a device."""
        return is_whole(self.mask)

    @property
    def values(self) -> Int[Tensor, "batch length"]:
        """What an embedder reads."""
        return self.ids

    def to(self, device: torch.device | str) -> Tokens:
        """Move both tensors to `device`."""
        return Tokens(self.ids.to(device), self.mask.to(device))


@dataclass(frozen=True)
class Vectors:
    """Real-valued sequences (sensor series, the lecture's random vectors), padded on the right."""

    values: Float[Tensor, "batch length dim"]
    mask: Bool[Tensor, "batch length"]

    @functools.cached_property
    def whole(self) -> bool:
        """Whether nothing is padded, where that is known without waiting for a device."""
        return is_whole(self.mask)

    def to(self, device: torch.device | str) -> Vectors:
        """Move both tensors to `device`."""
        return Vectors(self.values.to(device), self.mask.to(device))


Side = Tokens | Vectors


@dataclass(frozen=True)
class Batch:
    """Source, shifted target, target; `index` holds the pair numbers in the store, row by row.

    `alignment` says where each target position comes from, where that is known: a row sums to 1, or to 0.
    """

    src: Side
    tgt_in: Side
    tgt_out: Side
    index: tuple[int, ...] = ()
    alignment: Float[Tensor, "batch tgt src"] | None = None

    @property
    def num_targets(self) -> int:
        """The number of real target positions: what a loss is divided by."""
        return int(self.tgt_out.mask.sum())

    def to(self, device: torch.device | str) -> Batch:
        """Move all sides to `device`."""
        if self.src.mask.device == torch.device(device):
            return self
        alignment = None if self.alignment is None else self.alignment.to(device)
        return Batch(self.src.to(device), self.tgt_in.to(device), self.tgt_out.to(device), self.index, alignment)


def pad_tokens(sentences: Sequence[Sequence[int]]) -> Tokens:
    """Pad lists of ids on the right into one `Tokens`."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    width = max(1, int(lengths.max()))
    ids = torch.full((len(sentences), width), PAD, dtype=torch.long)
    for row, sentence in enumerate(sentences):
        ids[row, : len(sentence)] = torch.as_tensor(sentence, dtype=torch.long)
    return Tokens(ids, torch.arange(width) < lengths[:, None])


def pad_vectors(series: Sequence[Float[Tensor, "_ dim"]]) -> Vectors:
    """Pad real-valued sequences on the right with zeros into one `Vectors`."""
    lengths = torch.tensor([len(values) for values in series])
    values = torch.nn.utils.rnn.pad_sequence(
        [torch.as_tensor(v, dtype=torch.float32) for v in series], batch_first=True
    )
    return Vectors(values, torch.arange(values.shape[1]) < lengths[:, None])


def token_batch(src: Sequence[Sequence[int]], tgt: Sequence[Sequence[int]], index: Sequence[int] = ()) -> Batch:
    """Collate id lists (no bos, no eos) into a batch; the source ends with eos too, so that it is never empty."""
    return Batch(
        pad_tokens([[*ids, EOS] for ids in src]),
        pad_tokens([[BOS, *ids] for ids in tgt]),
        pad_tokens([[*ids, EOS] for ids in tgt]),
        tuple(index),
    )


def vector_batch(src: Sequence[Tensor], tgt: Sequence[Tensor], index: Sequence[int] = ()) -> Batch:
    """Collate real-valued sequences; `tgt_in` is the target delayed by one zero vector."""
    out = pad_vectors(tgt)
    delayed = torch.cat([torch.zeros_like(out.values[:, :1]), out.values[:, :-1]], dim=1)
    return Batch(pad_vectors(src), Vectors(delayed, out.mask), out, tuple(index))
