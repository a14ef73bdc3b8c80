"""What a beam search wrote: back-pointers on arrays made once, read backwards when the search is over."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from itda.decode.scores import Scoring


@dataclass(frozen=True)
class Found:
    """A hypothesis: its ids without bos and eos, and what the model thinks of them.

    `log_prob` is the sum of `token_log_probs`, the model's own, the last of which is that of eos; `score` is what
    the search ranked by (see `Scoring`; penalties of the search count). `weights` has a row for each of these and
    a column for each real source position. `finished` is False in one case alone: where each continuation of each
    hypothesis has probability 0, the best prefix is given, and nothing of it speaks of eos.
    """

    ids: tuple[int, ...]
    log_prob: float
    score: float
    token_log_probs: tuple[float, ...]
    weights: np.ndarray | None
    finished: bool


@dataclass(frozen=True)
class Step:
    """One step of the sentences in the batch: the `beam` that live on, and which of the rows before closed.

    `totals` and `closed` are what the search ranks by, `log_probs` and `eos_log_probs` the model's own.
    """

    tokens: Int[Tensor, "sentences beam"]
    parents: Int[Tensor, "sentences beam"]
    totals: Float[Tensor, "sentences beam"]  # best first; -inf: fewer than `beam` live on
    log_probs: Float[Tensor, "sentences beam"]  # of the token alone
    closed: Float[Tensor, "sentences width"]  # log-probability with eos; -inf: did not close
    eos_log_probs: Float[Tensor, "sentences width"]


@dataclass(frozen=True)
class _Ends:
    """Where each hypothesis ends: its sentence, the position of its eos, and the row that wrote it."""

    sentence: np.ndarray
    position: np.ndarray
    row: np.ndarray
    finished: np.ndarray
    score: np.ndarray


class History:
    """The steps of a search over `sentences`; position, sentence and beam are the dimensions of each array."""

    def __init__(self, sentences: int, beam_size: int, positions: int, weights: bool, device: torch.device):
        shape = (positions, sentences, beam_size)
        kind = torch.float32 if device.type == "mps" else torch.float64
        self.tokens = torch.empty(shape, dtype=torch.long, device=device)
        self.parents = torch.empty(shape, dtype=torch.long, device=device)
        self.log_probs = torch.empty(shape, dtype=kind, device=device)
        self.closed = torch.full(shape, -math.inf, dtype=kind, device=device)
        self.eos_log_probs = torch.empty(shape, dtype=kind, device=device)
        self.weights: list[Tensor] | None = [] if weights else None
        self.charges: Tensor | None = None  # on the score of what closed, made where something is charged
        self.alive: list[np.ndarray] = []
        self.last = np.zeros(sentences, dtype=np.int64)  # the position at which each sentence was done

    def leave(self, sentences: np.ndarray) -> None:
        """Note that these are done with the step that was written last, though they may stay in the batch."""
        self.last[sentences] = len(self.alive) - 1

    def write(
        self,
        alive: np.ndarray,
        step: Step,
        weights: Float[Tensor, "rows 1 src"] | None,
        charges: Float[Tensor, "sentences width"] | None = None,
    ) -> None:
        """Write the next step, of the sentences `alive`."""
        position, width = len(self.alive), step.closed.shape[1]
        places = torch.as_tensor(alive, device=self.tokens.device)
        self.tokens[position, places] = step.tokens
        self.parents[position, places] = step.parents
        self.log_probs[position, places] = step.log_probs.to(self.log_probs.dtype)
        self.closed[position, places, :width] = step.closed
        self.eos_log_probs[position, places, :width] = step.eos_log_probs.to(self.eos_log_probs.dtype)
        self.alive.append(alive)
        if charges is not None:
            self.charges = torch.zeros_like(self.closed) if self.charges is None else self.charges
            self.charges[position, places, :width] = charges.to(self.closed.dtype)
        if weights is None:
            self.weights = None
        elif self.weights is not None:
            self.weights.append(weights[:, 0])

    def scores(self, scoring: Scoring) -> np.ndarray:
        """Score each hypothesis that closed: positions, sentences, beam; -inf where none did."""
        steps = len(self.alive)
        closed = self.closed[:steps].cpu().numpy()
        scores = scoring.normalize(closed, np.arange(1, steps + 1)[:, None, None])
        return scores if self.charges is None else scores + self.charges[:steps].cpu().numpy()

    def collect(self, n_best: int, scoring: Scoring, mask: Bool[Tensor, "sentences src"]) -> list[list[Found]]:
        """Read the best hypotheses of each sentence, best first; of equals the shorter first, then the better beam."""
        scores = self.scores(scoring)
        _, sentences, beam_size = scores.shape
        scores = scores.transpose(1, 0, 2).reshape(sentences, -1)
        order = np.argsort(-scores, axis=1, kind="stable")[:, :n_best]
        wanted = finished = np.take_along_axis(scores, order, axis=1) > -math.inf
        stuck = ~finished[:, 0]
        if stuck.any():  # nothing closed: the best beam of the last step
            order[stuck, 0] = self.last[stuck] * beam_size
            wanted = finished | (stuck[:, None] & (np.arange(order.shape[1]) == 0))
        sentence, rank = np.nonzero(wanted)
        position, row = np.divmod(order[sentence, rank], beam_size)
        ends = _Ends(sentence, position, row, finished[sentence, rank], scores[sentence, order[sentence, rank]])
        found: list[list[Found]] = [[] for _ in range(sentences)]
        for owner, hypothesis in zip(sentence.tolist(), self._trace(ends, scoring, mask), strict=True):
            found[owner].append(hypothesis)
        return found

    def _trace(self, ends: _Ends, scoring: Scoring, mask: Bool[Tensor, "sentences src"]) -> list[Found]:
        """Follow each hypothesis from the row that it ended in back to its first token."""
        steps = int(ends.position.max()) + 1
        tokens, parents, log_probs, eos = (
            array[:steps].cpu().numpy() for array in (self.tokens, self.parents, self.log_probs, self.eos_log_probs)
        )
        shape = (len(ends.row), steps)
        ids, rows, token_log_probs = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape)
        last = np.arange(len(ends.row)), ends.position
        rows[last] = ends.row
        token_log_probs[last] = np.where(ends.finished, eos[ends.position, ends.sentence, ends.row], 0.0)
        for position in range(steps - 2, -1, -1):
            inside = np.flatnonzero(ends.position > position)
            here = position, ends.sentence[inside], rows[inside, position + 1]
            ids[inside, position] = tokens[here]
            token_log_probs[inside, position] = log_probs[here]
            rows[inside, position] = parents[here]
        totals = token_log_probs.cumsum(axis=1)[:, -1]  # added in the order of the search: the same to the last bit
        scores = np.where(ends.finished, ends.score, scoring.normalize(totals, ends.position + 1))
        weights, real = self._gather_weights(ends, rows), mask.cpu().numpy()
        spoken = ends.position + ends.finished  # with eos, where it was reached
        return [
            Found(
                ids=tuple(ids[i, : ends.position[i]].tolist()),
                log_prob=float(totals[i]),
                score=float(scores[i]),
                token_log_probs=tuple(token_log_probs[i, : spoken[i]].tolist()),
                weights=None if weights is None else weights[i, : spoken[i]][:, real[ends.sentence[i]]],
                finished=bool(ends.finished[i]),
            )
            for i in range(len(ends.row))
        ]

    def _gather_weights(self, ends: _Ends, rows: np.ndarray) -> np.ndarray | None:
        """Fetch the attention of each hypothesis at each of its positions: hypotheses, positions, src."""
        if not self.weights:
            return None
        weights = np.zeros((*rows.shape, self.weights[0].shape[1]), dtype=np.float32)
        place = np.zeros(self.tokens.shape[1], dtype=np.int64)
        for position in range(rows.shape[1]):
            step, alive = self.weights[position], self.alive[position]
            place[alive] = np.arange(len(alive))  # of a sentence in the batch of this step
            inside = np.flatnonzero(ends.position >= position)
            picked = place[ends.sentence[inside]] * (len(step) // len(alive)) + rows[inside, position]
            weights[inside, position] = step[torch.as_tensor(picked, device=step.device)].float().cpu().numpy()
        return weights
