"""What keeps a search from repeating itself, from stopping early, and from leaving words of the source out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.batch import EOS
from itda.decode.rules import Rows, Rule
from itda.errors import UserError

_UNSEEN = 1e-6  # attention below this counts as this, so that one unread word does not decide alone


class MinLength(Rule):
    """No eos before so many tokens."""

    treats_alike = True

    def __init__(self, tokens: int) -> None:
        self.tokens = tokens

    def apply(self, rows: Rows, states: Sequence[Any]) -> None:
        """Block eos while the hypothesis is too short."""
        if rows.position < self.tokens:
            rows.block(rows.rows, [EOS])

    def apply_to_all(self, log_probs: Float[Tensor, "*lead vocab"], position: int) -> None:
        """Block eos while all hypotheses are too short."""
        if position < self.tokens:
            log_probs[..., EOS] = -math.inf


class NoRepeat(Rule):
    """No n tokens in a row twice (Paulus et al. 2017). The state is what was written."""

    def __init__(self, size: int) -> None:
        self.size = size

    def follow(self, sentence: int, state: tuple[int, ...], token: int, spelled: bytes | None) -> tuple[int, ...]:
        """Write one more."""
        return (*state, token)

    def apply(self, rows: Rows, states: Sequence[tuple[int, ...]]) -> None:
        """Block each token that would end an n-gram which stands already."""
        head = self.size - 1
        for row, written in zip(rows.rows, states, strict=True):
            last = written[len(written) - head :]
            ends = [
                written[start + head] for start in range(len(written) - head) if written[start : start + head] == last
            ]
            if ends and len(last) == head:
                rows.block([row], ends)


class Repetition(Rule):
    """A token that was written already costs `strength` nats each further time; eos is never charged.

    Keskar et al. 2019 (arXiv 1909.05858) divide the token's logit, which depends on a constant that the softmax does
    not see; what is subtracted from a logit does not, and in a loop, where the repeated token has a probability near 1
    and a log-probability near 0, no factor on the latter would help.
    """

    def __init__(self, strength: float) -> None:
        self.strength = strength

    def start(self, sentence: int) -> frozenset[int]:
        """Nothing is written yet."""
        return frozenset()

    def follow(self, sentence: int, state: frozenset[int], token: int, spelled: bytes | None) -> frozenset[int]:
        """Write one more."""
        return state | {token}

    def apply(self, rows: Rows, states: Sequence[frozenset[int]]) -> None:
        """Charge what was written."""
        places = [(row, token) for row, written in zip(rows.rows, states, strict=True) for token in sorted(written)]
        if places:
            row, token = torch.tensor(places, device=rows.log_probs.device).unbind(1)
            rows.log_probs[row, token] -= self.strength


class Coverage:
    """How much attention each row has given to each source position so far (Wu et al. 2016, equation 14)."""

    def __init__(self, strength: float) -> None:
        self.strength = strength
        self._seen: Tensor | None = None

    def charge(
        self, weights: Float[Tensor, "rows 1 src"] | None, mask: Tensor, width: int
    ) -> Float[Tensor, "beams width"]:
        """Count what was looked at in this step too, and give what is added to the score of a row that closes now.

        `mask` is that of the sentences in the batch; each of their beams has `width` rows.
        """
        if weights is None:
            raise UserError(
                "coverage_penalty needs attention, and this model has none (model.decoder.kind = plain); "
                "set coverage_penalty = 0, or use a model with attention"
            )
        self._seen = weights[:, 0] if self._seen is None else self._seen + weights[:, 0]
        logs = self._seen.clamp(_UNSEEN, 1.0).log().view(len(mask), -1, mask.shape[1])
        return self.strength * logs.masked_fill(~mask[:, None], 0.0).sum(dim=2).view(-1, width)

    def follow(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i go on from what row `rows[i]` was."""
        if self._seen is not None:
            self._seen = self._seen[rows]
