"""An output as its reader sees it: text, tokens, scores, and where the model looked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from jaxtyping import Float
from numpy import ndarray


@dataclass(frozen=True)
class Hypothesis:
    """One output. `score` is what it was chosen by (docs/reference/decoding.md), `log_prob` the model's, in nats.

    `alignment` links each output token to the source token with the largest alpha, as (source, target) positions
    without eos; empty where the model has no attention. `attention` is alpha itself, (tokens + eos) x (source
    tokens + eos). `n_best` holds all hypotheses of the search, this one first; `notice` says what was
    cut, or could not be obeyed. `factors` names, for each of the recipe's target factors, its value at each token.
    """

    text: str
    score: float
    log_prob: float
    tokens: tuple[str, ...]
    src_tokens: tuple[str, ...]
    token_log_probs: tuple[float, ...] = ()
    attention: Float[ndarray, "tgt src"] | None = None
    n_best: tuple[Hypothesis, ...] = ()
    notice: str = ""
    factors: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def alignment(self) -> list[tuple[int, int]]:
        """Hard links (source position, target position)."""
        if self.attention is None or not self.src_tokens:
            return []
        rows = self.attention[: len(self.tokens), : len(self.src_tokens)]
        return [(int(row.argmax()), position) for position, row in enumerate(rows)]
