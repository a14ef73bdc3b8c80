"""The text that is sure already: what all hypotheses of a running search have in common, which is never taken back.

Every later hypothesis goes on from one that lives now, or closed before. So the text that all of these begin with
can only grow. What a later token could still change, half a character or half an escape, is held back.
"""

from __future__ import annotations

import codecs
import math
from collections.abc import Callable, Sequence

from itda.decode.scores import Scoring
from itda.decode.search import Moment
from itda.text.subwords import ESCAPE

Written = tuple[int, ...]


class Watcher:
    """Follows the search of one text, and says what has become sure.

    Of the hypotheses that closed, only the best can still win. `sure_bytes` gives the bytes of a hypothesis as far as
    they cannot change any more, `finish` turns bytes into text.
    """

    def __init__(
        self, scoring: Scoring, sure_bytes: Callable[[Sequence[int]], bytes], finish: Callable[[bytes], str]
    ) -> None:
        self.scoring, self.sure_bytes, self.finish, self.sure = scoring, sure_bytes, finish, ""
        self._rows: dict[int, list[Written | None]] = {}  # of each beam, what its rows have written; None: dead
        self._best: tuple[float, Written] | None = None  # of those that closed; no other of them can win
        self._position = 0

    def see(self, moment: Moment) -> str:
        """Take in one step, and give the text that has become sure by it."""
        step = moment.step
        parts = zip(step.tokens.tolist(), step.parents.tolist(), step.totals.tolist(), strict=True)
        for place, (beam, closed, row) in enumerate(
            zip(moment.alive.tolist(), step.closed.tolist(), parts, strict=True)
        ):
            before = self._rows.get(beam, [()])
            charges = [0.0] * len(closed) if moment.charges is None else moment.charges[place].tolist()
            for written, total, charge in zip(before, closed, charges, strict=True):
                score = self.scoring.normalize(total, self._position + 1) + charge
                if written is not None and score > (self._best[0] if self._best else -math.inf):
                    self._best = score, written
            self._rows[beam] = [
                _longer(before[parent], token, total) for token, parent, total in zip(*row, strict=True)
            ]
        self._position += 1
        candidates = [one for rows in self._rows.values() for one in rows if one is not None]
        candidates += [self._best[1]] if self._best else []
        texts = [self._stable(one) for one in candidates]
        return self._grow(_common(min(texts), max(texts))) if texts else ""

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


def _common(first: str, last: str) -> str:
    """The beginning that the first and the last of a sorted list share, and so all of it."""
    length = next((at for at, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), None)
    return first if length is None else first[:length]
