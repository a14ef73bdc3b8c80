"""The words that a search chooses from: all, or a few for each sentence; and which token stands at each place.

A search ranks places. Where it chooses from a few words, its tensors are as narrow as their list, and what it has
chosen is named afterwards. The special tokens keep their places, so eos is always found where it always is.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.batch import PAD, SPECIALS
from itda.decode.history import Step
from itda.nn.interface import Decoded, Head, Memory, Narrow, Narrowing
from itda.nn.screen import Screen


class Words(ABC):
    """What may be written, for the sentences that are in the batch."""

    @abstractmethod
    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows places"]:
        """The log-probability of each place."""

    def named(self, step: Step) -> Step:
        """Put tokens where places were chosen."""
        return step

    def select(self, sentences: Int[Tensor, " kept"]) -> Words:
        """Keep some sentences."""
        return self


@dataclass(frozen=True)
class AllWords(Words):
    """The whole vocabulary: a token's place is its id."""

    head: Head

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows places"]:
        """Ask the head."""
        return self.head.log_probs(decoded, memory)[:, 0]


@dataclass(frozen=True)
class FewWords(Words):
    """A few words of each sentence, the special tokens first; the end of a short list is PAD."""

    narrow: Narrow
    ids: Int[Tensor, "sentences places"]

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows places"]:
        """Ask the narrowed head."""
        return self.narrow.log_probs(decoded, memory)[:, 0]

    def named(self, step: Step) -> Step:
        """Look the chosen places up in the list of their sentence."""
        places = step.tokens.reshape(len(self.ids), -1)
        return replace(step, tokens=self.ids.gather(1, places).view_as(step.tokens))

    def select(self, sentences: Int[Tensor, " kept"]) -> FewWords:
        """Keep some sentences."""
        return replace(self, narrow=self.narrow.select(sentences), ids=self.ids[sentences])


@dataclass(frozen=True)
class SpreadWords(FewWords):
    """The same, laid out over the whole vocabulary: for rules, which speak of tokens by their ids."""

    vocab_size: int

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows places"]:
        """Put each word at its own place, and never at all others."""
        few = super().log_probs(decoded, memory)
        wide = few.new_full((len(few), self.vocab_size), -math.inf)
        return wide.scatter_(1, self.ids.repeat_interleave(len(few) // len(self.ids), dim=0), few)

    def named(self, step: Step) -> Step:
        """A token's place is its id."""
        return step


class LeadingWords(Words):
    """The words that a screen cannot rule out at this very step: what is best among all words is among them."""

    def __init__(self, screen: Screen, count: int) -> None:
        """Look for the `count` best words of each row."""
        self.screen, self.count = screen, count
        self._ids: Tensor | None = None  # of the places of the last step

    def log_probs(self, decoded: Decoded, memory: Memory) -> Float[Tensor, "rows places"]:
        """The special tokens, then the leaders of each row, but for the special ones among them."""
        features, specials = decoded.features[:, 0], len(SPECIALS)
        leaders = self.screen.leaders(features, self.count)
        first = torch.arange(specials, device=features.device).expand(len(features), -1)
        self._ids = torch.cat([first, leaders.ids], dim=1)
        others = leaders.logits.masked_fill(leaders.ids < specials, -math.inf)
        return torch.cat([self.screen.logits(features, slice(specials)), others], dim=1) - leaders.normaliser

    def named(self, step: Step) -> Step:
        """Look the chosen places up in the list of their row; a beam has one."""
        assert self._ids is not None, "nothing is chosen before it was scored"
        return replace(step, tokens=self._ids.gather(1, step.tokens))


@dataclass(frozen=True)
class Shortlist:
    """A shortlist made ready for many batches: the words that all sentences share are put before the head once."""

    shared: Int[Tensor, " shared"]
    narrowing: Narrowing

    @staticmethod
    def of(head: Head, frequent: np.ndarray, device: torch.device) -> Shortlist:
        """Put the special tokens in front of the frequent ones."""
        first = np.arange(len(SPECIALS))
        shared = torch.from_numpy(np.concatenate([first, np.setdiff1d(frequent, first)])).to(device)
        return Shortlist(shared, head.narrow(shared))

    def words(self, own: Sequence[np.ndarray], spread: int = 0) -> Words:
        """Let each sentence be written with the shared words and its own, and with nothing else.

        A sentence is never offered what its neighbours need. `spread` is the size of the vocabulary where rules speak
        of tokens, 0 where none do.
        """
        shared = self.shared.cpu().numpy()
        lists = [np.setdiff1d(words, shared) for words in own]
        padded = np.full((len(lists), max(map(len, lists))), PAD, dtype=np.int64)
        for row, words in enumerate(lists):
            padded[row, : len(words)] = words
        own_ids = torch.from_numpy(padded).to(self.shared.device)
        narrow, ids = self.narrowing(own_ids), torch.cat([self.shared.expand(len(padded), -1), own_ids], dim=1)
        return SpreadWords(narrow, ids, spread) if spread else FewWords(narrow, ids)
