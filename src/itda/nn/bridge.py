"""Bridges: where the first state of a recurrent decoder comes from.

DenseBridge   tanh(W [h; c] + b) of the encoder's last state
CopyBridge    the encoder's last state itself, layer by layer
MeanBridge    tanh(W mean_i(h_i) + b)
ZeroBridge    nothing: what the decoder knows of the source, attention tells it
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from itda.nn.interface import Memory, mean_state
from itda.nn.recurrent import CellState

StackState = tuple[CellState, ...]  # one entry a layer


def deal(values: Float[Tensor, "sentences parts_dim"], num_layers: int, parts: int) -> StackState:
    """Cut a vector into the states of all layers."""
    cut = values.chunk(num_layers * parts, dim=-1)
    return tuple(tuple(cut[i * parts : (i + 1) * parts]) for i in range(num_layers))


class DenseBridge(nn.Module):
    """The decoder's first state as a learned map of the encoder's last: tanh(W [h; c] + b), for each layer."""

    def __init__(self, summary_dim: int, dim: int, num_layers: int, parts: int) -> None:
        super().__init__()
        self.num_layers, self.parts = num_layers, parts
        self.map = nn.Linear(summary_dim, dim * num_layers * parts)

    def forward(self, memory: Memory) -> StackState:
        """The first state of each layer."""
        last = torch.cat(memory.summary[-1], dim=-1)
        return deal(torch.tanh(self.map(last)), self.num_layers, self.parts)


class CopyBridge(nn.Module):
    """The decoder's first state is the encoder's last, layer by layer: the lecture's context vector."""

    def forward(self, memory: Memory) -> StackState:
        """The encoder's summary as it is."""
        return memory.summary


class MeanBridge(nn.Module):
    """The decoder's first state as a learned map of the mean state (Sennrich et al. 2017, Nematus, arXiv 1703.04357).

    A last state tells most of the words it read last; a mean tells of all alike.
    """

    def __init__(self, state_dim: int, dim: int, num_layers: int, parts: int) -> None:
        super().__init__()
        self.num_layers, self.parts = num_layers, parts
        self.map = nn.Linear(state_dim, dim * num_layers * parts)

    def forward(self, memory: Memory) -> StackState:
        """The first state of each layer."""
        mean = mean_state(memory.states, memory.mask)
        return deal(torch.tanh(self.map(mean)), self.num_layers, self.parts)


class ZeroBridge(nn.Module):
    """The decoder begins with zeros: the source reaches it by attention alone."""

    def __init__(self, dim: int, num_layers: int, parts: int) -> None:
        super().__init__()
        self.dim, self.num_layers, self.parts = dim, num_layers, parts

    def forward(self, memory: Memory) -> StackState:
        """Zeros for each layer."""
        zeros = memory.states.new_zeros(len(memory.mask), self.dim)
        return ((zeros,) * self.parts,) * self.num_layers


Bridge = DenseBridge | CopyBridge | MeanBridge | ZeroBridge
