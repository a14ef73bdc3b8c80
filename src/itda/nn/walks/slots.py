"""Which of the written positions each row descends from: the pasts of a sentence's beams, in one store.

All rows of a sentence write beside each other, `width` slots a step, and what was written is never moved when beams
are reordered: what a row may see of it is a bias on its attention scores. So a reorder costs a number a slot and row,
not a key and a value of each layer; and the beams of a sentence are queries to one store, as they are to its memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from itda.nn.walks.looking import Places, no_fewer

FIRST = 16  # slots that there is room for at the beginning
WIDE = 16  # positions of beams that there is room for, at the least
Keep = Callable[[Int[Tensor, "sentences kept"] | None, int], None]
"""Tells the stores which slots to move to the front (None: all), and the room that they are to have."""


class Slots:
    """The slots of a batch: how many are in use, and a bias for each row that is 0 on its own past, -inf elsewhere."""

    def __init__(self, memory_states: Float[Tensor, "sentences src dim"]) -> None:
        self.like, self.sentences, self.places = memory_states.new_empty(0), len(memory_states), Places()
        self.width, self.position, self.used, self.room = 1, 0, 0, FIRST
        self._alone = self._unseen()
        self._bias: Float[Tensor, "sentences width room"] | None = None  # None: each row sees all that is in use

    @property
    def looked_at(self) -> int:
        """Count the slots that rows look at.

        With one row a sentence it is the whole room: what lies side by side is read several times as quickly as what
        has gaps.
        """
        return self.room if self._bias is None else no_fewer(self.used)

    @property
    def bias(self) -> Float[Tensor, "#sentences width places"]:
        """What is added to the scores of the slots that are looked at; those not yet in use are seen by none."""
        if self._bias is None:
            return self._alone
        seen = self._bias[:, :, : self.used]
        beyond = self.looked_at - self.used
        return functional.pad(seen, (0, beyond), value=-math.inf) if beyond else seen

    def advance(self, keep: Keep) -> slice:
        """Give the slots of the next position; `keep` is told what the stores are to keep where there is no room."""
        if self.used + self.width > self.room:
            self._make_room(keep)
        new = slice(self.used, self.used + self.width)
        self.position, self.used = self.position + 1, new.stop
        if self._bias is None:
            self._alone[:, :, new] = 0.0
        return new

    def widen(self, width: int, keep: Keep) -> None:
        """Give each sentence `width` rows that share what was written so far."""
        self.width = width
        if width > 1:
            self.room = max(self.room, WIDE * width)
            keep(None, self.room)
            self._bias = self._fresh(self.room)
            self._bias[:, :, : self.used] = 0.0

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Let row i see what row `rows[i]` saw."""
        if self._bias is not None:
            seen = self._bias.flatten(0, 1)[:, : self.used]
            seen.copy_(seen.index_select(0, rows))

    def select(self, sentences: Int[Tensor, " kept"]) -> None:
        """Keep some sentences."""
        self.sentences = len(sentences)
        if self._bias is not None:
            self._bias = self._bias.index_select(0, sentences)

    def _fresh(self, room: int) -> Tensor:
        """A bias by which each row sees, of each later position, the slot that it wrote itself."""
        own = self.like.new_full((self.width, self.width), -math.inf).fill_diagonal_(0.0)
        ahead = own.repeat(1, -(-room // self.width))
        # The first later position begins where the slots in use end.
        return ahead.roll(self.used % self.width, dims=1)[:, :room].repeat(self.sentences, 1, 1)

    def _unseen(self) -> Float[Tensor, "1 1 room"]:
        """A bias for all rows alike, by which they see what is in use."""
        bias = self.like.new_full((1, 1, self.room), -math.inf)
        bias[:, :, : self.used] = 0.0
        return bias

    def _make_room(self, keep: Keep) -> None:
        """Forget what no row descends from any more; where that is little, double the room."""
        if self._bias is None:
            self.room += self.room // 2
            self._alone = self._unseen()
            keep(None, self.room)
            return
        seen = (self._bias[:, :, : self.used] == 0.0).any(dim=1)
        kept = int(seen.sum(dim=1).max())
        order = seen.to(torch.uint8).argsort(dim=1, descending=True, stable=True)[:, :kept]
        while kept + self.width > self.room // 2:
            self.room *= 2
        old = self._bias.gather(2, order[:, None].expand(-1, self.width, -1))
        self.used = kept
        self._bias = self._fresh(self.room)
        self._bias[:, :, :kept] = old
        keep(order, self.room)
