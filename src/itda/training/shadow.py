"""The shadow of a model: an exponential moving average of its weights, quieter than the weights themselves.

    shadow <- d shadow + (1 - d) weights        d = min(decay, (1 + step) / (10 + step))

The rate rises from 0.1, so that the weights of the beginning are soon forgotten (as in TensorFlow's
ExponentialMovingAverage); a decay of 0.999 looks back over about 1,000 updates.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


def decay_at(decay: float, step: int) -> float:
    """The decay of update `step`, counted from 0."""
    return min(decay, (1 + step) / (10 + step))


class Shadow:
    """Follows a model after each update, and can stand in its place for a while."""

    @torch.no_grad()
    def __init__(self, model: nn.Module, decay: float) -> None:
        """Begin with the model's own weights."""
        self.decay = decay
        self._weights = dict(model.named_parameters())  # a tied one has one name
        self._values = [weight.detach().clone() for weight in self._weights.values()]

    @torch.no_grad()
    def follow(self, step: int) -> None:
        """Take update `step` (from 0) into the average."""
        weights = [weight.detach() for weight in self._weights.values()]
        torch._foreach_lerp_(self._values, weights, 1.0 - decay_at(self.decay, step))

    @contextmanager
    def shown(self) -> Iterator[dict[str, Tensor]]:
        """Put the average in the model's place for a block, which is given the model's own weights by name."""
        own = {name: weight.detach().clone() for name, weight in self._weights.items()}
        self._put(dict(zip(own, self._values, strict=True)))
        try:
            yield own
        finally:
            self._put(own)

    @torch.no_grad()
    def resume(self, own: Mapping[str, Tensor]) -> None:
        """Take the weights that the model has now for the average, and give it back its own."""
        self._values = [weight.detach().clone() for weight in self._weights.values()]
        self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self._weights.items():
            weight.copy_(values[name])
