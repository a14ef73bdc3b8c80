"""What a search is asked for, as one frozen value; each part that has settings of its own brings them along."""

from __future__ import annotations

import math
from dataclasses import dataclass

from itda.decode.diverse import Diversity
from itda.decode.sampling import Sampling
from itda.decode.scores import NORMALIZATIONS, Scoring
from itda.errors import UserError


@dataclass(frozen=True)
class Settings:
    """A search: by beam (1: greedy), by diverse groups of beams, or `n_best` samples."""

    beam_size: int = 5
    n_best: int = 1
    scoring: Scoring = Scoring()
    diversity: Diversity | None = None
    sampling: Sampling | None = None

    @property
    def groups(self) -> int:
        """Count the beams that search beside each other for one sentence."""
        if self.sampling is not None:
            return self.n_best
        return 1 if self.diversity is None else self.diversity.groups

    @property
    def width(self) -> int:
        """Count the rows of each of these beams."""
        return 1 if self.sampling is not None else self.beam_size // self.groups

    @property
    def rows(self) -> int:
        """Count the rows of a sentence."""
        return self.groups * self.width

    def check(self) -> Settings:
        """Refuse settings that make no sense, or not with each other."""
        self._check_scoring()
        if self.beam_size < 1:
            raise UserError(f"beam_size is {self.beam_size}; it must be 1 or more (1 means greedy search)")
        if self.sampling is not None:
            self.sampling.check()
            if self.n_best < 1:
                raise UserError(f"n_best is {self.n_best}; it must be 1 or more (the number of samples)")
            if self.diversity is not None:
                raise UserError(
                    "sampling and diverse beam search were both asked for; samples differ by themselves: leave one out"
                )
            return self
        if not 1 <= self.n_best <= self.beam_size:
            raise UserError(
                f"n_best is {self.n_best}; it must be 1 to beam_size, {self.beam_size}; widen the beam for more"
            )
        if self.diversity is not None:
            self.diversity.check(self.beam_size)
        return self

    def _check_scoring(self) -> None:
        scoring = self.scoring
        if scoring.normalization not in NORMALIZATIONS:
            raise UserError(
                f"length_normalization is {scoring.normalization!r}; it must be one of {', '.join(NORMALIZATIONS)}"
            )
        if not 0 <= scoring.strength < math.inf:
            raise UserError(
                f"length_penalty is {scoring.strength}; it must be 0 or more (1: log-probability per token)"
            )
        if not 0 <= scoring.coverage < math.inf:
            raise UserError(f"coverage_penalty is {scoring.coverage}; it must be 0 or more (0: off)")
