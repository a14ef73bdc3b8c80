"""The text that is sure already: what all hypotheses of a running search have in common, which is never taken back.

Every later hypothesis goes on from one that lives now, or closed before. So the text that all of these begin with
can only grow. What a later token could still change, half a character or half an escape, is held back.
"""

from __future__ import annotations

import codecs
import math
import os
from collections.abc import Callable, Sequence

from itda.decode.search import Moment
from itda.text.subwords import ESCAPE

Written = tuple[int, ...]


class Watcher:
    """Follows the search of one text, and says what has become sure.

    `sure_bytes` gives the bytes of a hypothesis as far as they cannot change any more, `finish` turns bytes into text.
    """

    def __init__(self, sure_bytes: Callable[[Sequence[int]], bytes], finish: Callable[[bytes], str]) -> None:
        self.sure_bytes, self.finish, self.sure = sure_bytes, finish, ""
        self._rows: dict[int, list[Written | None]] = {}  # of each beam, what its rows have written; None: dead
        self._closed: list[Written] = []

    def see(self, moment: Moment) -> str:
        """Take in one step, and give the text that has become sure by it."""
        step = moment.step
        parts = zip(step.tokens.tolist(), step.parents.tolist(), step.totals.tolist(), strict=True)
        for beam, closed, row in zip(moment.alive.tolist(), step.closed.tolist(), parts, strict=True):
            before = self._rows.get(beam, [()])
            ended = (before[place] for place, total in enumerate(closed) if total > -math.inf)
            self._closed += [one for one in ended if one is not None]
            self._rows[beam] = [
                _longer(before[parent], token, total) for token, parent, total in zip(*row, strict=True)
            ]
        live = [one for rows in self._rows.values() for one in rows if one is not None]
        texts = [self._stable(one) for one in {*live, *self._closed}]
        return self._grow(os.path.commonprefix(texts)) if texts else ""

    def end(self, text: str) -> str:
        """Give the rest of the text that won."""
        assert text.startswith(self.sure), "what was sure is not taken back"
        return self._grow(text)

    def _grow(self, text: str) -> str:
        """Go on to `text`; what is new of it is the answer."""
        new = text[len(self.sure) :]
        self.sure += new
        return new

    def _stable(self, written: Written) -> str:
        """The text of a hypothesis without what a later token could still change."""
        raw = self.sure_bytes(written)
        whole = codecs.getincrementaldecoder("utf-8")("replace").decode(raw).rstrip(ESCAPE)
        return self.finish(whole.encode("utf-8"))


def _longer(before: Written | None, token: int, total: float) -> Written | None:
    return None if before is None or total == -math.inf else (*before, token)
