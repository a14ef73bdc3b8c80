"""Rules: what a hypothesis must obey, or is charged for; each keeps a state of its own for each live hypothesis.

A rule changes log-probabilities before the search ranks them, and never the search. A state is a plain frozen
value that follows from the sentence and the tokens written so far, so that copying a hypothesis copies nothing.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from itda.batch import UNK
from itda.decode.history import Step


@dataclass(frozen=True)
class Rows:
    """The live hypotheses of a step: their log-probabilities, to be changed in place, and where each stands."""

    log_probs: Float[Tensor, "rows vocab"]
    own: Float[Tensor, "rows vocab"]  # the model's, as they were
    rows: list[int]  # the row of each live hypothesis
    sentences: list[int]  # and its sentence
    room: list[int]  # tokens that it may still write, without eos
    position: int
    meanings: list[bytes | None]  # what <unk> would stand for there, where something was asked for by name

    def block(self, rows: Sequence[int], tokens: np.ndarray | Sequence[int]) -> None:
        """Let none of these tokens follow in these rows."""
        device = self.log_probs.device
        rows_ = torch.as_tensor(np.asarray(rows, dtype=np.int64), device=device)
        tokens_ = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=device)
        self.log_probs[rows_[:, None], tokens_] = -math.inf

    def allow_only(self, row: int, tokens: np.ndarray | Sequence[int]) -> None:
        """Let nothing but these tokens follow in a row."""
        chosen = torch.as_tensor(np.asarray(tokens, dtype=np.int64), device=self.log_probs.device)
        kept = self.log_probs[row, chosen].clone()
        self.log_probs[row] = -math.inf
        self.log_probs[row, chosen] = kept


class Rule(ABC):
    """One rule; `start` and `follow` make its states, `apply` changes what may follow.

    A rule that `treats_alike` looks at no hypothesis: it has no states, and `apply_to_all` does the same to each row.
    """

    treats_alike = False

    def apply_to_all(self, log_probs: Float[Tensor, "*lead vocab"], position: int) -> None:
        """Change the log-probabilities of all rows, in place, by a rule that treats them alike."""
        raise NotImplementedError(f"{type(self).__name__} looks at each hypothesis")

    def start(self, sentence: int) -> Any:
        """The state before the first token of a sentence."""
        return ()

    def follow(self, sentence: int, state: Any, token: int, spelled: bytes | None) -> Any:
        """The state after one more token; `spelled`: what an <unk> stands for, where that was asked for by name."""
        return state

    @abstractmethod
    def apply(self, rows: Rows, states: Sequence[Any]) -> None:
        """Change the log-probabilities of the live rows; `states` has one for each of them."""

    def meaning(self, sentence: int, state: Any) -> bytes | None:
        """Say what an <unk> here would stand for; None: nothing but itself."""
        return None

    def extra_tokens(self, sentence: int) -> int:
        """Count the tokens that this rule writes into a sentence, and that its limit does not know of."""
        return 0

    def names(self, sentence: int) -> Iterable[int]:
        """Name the tokens that this rule may ask for in a sentence: no shortlist may lack them."""
        return ()


class RuleBook:
    """The rules of a search, and the state of each of its rows. Order matters: the later rule sees what is left."""

    def __init__(self, rules: Sequence[Rule], *, known: Sequence[int] = (), named: bool = False) -> None:
        """In the sentences `known`, <unk> is only written where a rule names its meaning (`named`: some may)."""
        self.rules, self.known, self.named = tuple(rules), frozenset(known), named
        self.simple = not known and not named and all(rule.treats_alike for rule in rules)
        self._states: dict[int, list[tuple[Any, ...] | None]] = {}  # of each beam in the batch, each row; None: dead
        self._limits = np.zeros(0, dtype=np.int64)
        self._groups = 1

    def lengthen(self, limits: Int[Tensor, " sentences"]) -> Int[Tensor, " sentences"]:
        """Make room for what the rules write."""
        extra = [sum(rule.extra_tokens(sentence) for rule in self.rules) for sentence in range(len(limits))]
        return limits + torch.tensor(extra, dtype=limits.dtype, device=limits.device)

    def names(self, sentence: int) -> set[int]:
        """Name the tokens that some rule may ask for in a sentence."""
        return {token for rule in self.rules for token in rule.names(sentence)}

    def begin(self, limits: np.ndarray, groups: int) -> None:
        """Start `groups` beams of one row for each sentence, with these limits."""
        self._limits, self._groups = limits, groups
        if self.simple:
            return
        self._states = {beam: [self.first(self.sentence(beam))] for beam in range(len(limits) * groups)}

    def first(self, sentence: int) -> tuple[Any, ...]:
        """The states of all rules before the first token."""
        return tuple(rule.start(sentence) for rule in self.rules)

    def apply(self, own: Float[Tensor, "beams width vocab"], position: int) -> Float[Tensor, "beams width vocab"]:
        """Give the log-probabilities that the search is to rank by.

        Where all rules treat all rows alike, they are changed in place, and nothing is done row by row.
        """
        if self.simple:
            for rule in self.rules:
                rule.apply_to_all(own, position)
            return own
        beams, width, _ = own.shape
        changed = own.clone()
        live = [
            (number * width + row, self.sentence(beam), states)
            for number, beam in enumerate(self._states)
            for row, states in enumerate(self._states[beam])
            if states is not None
        ]
        meanings = [self._meaning(sentence, states) if self.named else None for _, sentence, states in live]
        rows = Rows(
            changed.view(beams * width, -1),
            own.reshape(beams * width, -1),
            [row for row, _, _ in live],
            [sentence for _, sentence, _ in live],
            [int(self._limits[sentence]) - position for _, sentence, _ in live],
            position,
            meanings,
        )
        places = zip(rows.rows, rows.sentences, meanings, strict=True)
        nameless = [row for row, sentence, meaning in places if sentence in self.known and meaning is None]
        if nameless:
            rows.block(nameless, [UNK])
        for number, rule in enumerate(self.rules):
            rule.apply(rows, [states[number] for _, _, states in live])
        return changed

    def sentence(self, beam: int) -> int:
        """The sentence of a beam."""
        return beam // self._groups

    def states(self, beam: int) -> list[tuple[Any, ...] | None]:
        """The states of a beam's rows; None: a dead row."""
        return self._states[beam]

    def follow(self, step: Step) -> None:
        """Go on with the chosen rows of the beams in the batch."""
        if self.simple:
            return
        parents, tokens = step.parents.cpu().numpy(), step.tokens.cpu().numpy()
        alive = step.totals.cpu().numpy() > -math.inf
        self._states = {
            beam: [
                self.next(self.sentence(beam), before[parents[place, row]], int(token)) if alive[place, row] else None
                for row, token in enumerate(tokens[place])
            ]
            for place, (beam, before) in enumerate(self._states.items())
        }

    def select(self, kept: np.ndarray) -> None:
        """Keep some beams, by their places in the batch."""
        if self.simple:
            return
        beams = list(self._states)
        self._states = {beams[place]: self._states[beams[place]] for place in kept.tolist()}

    def next(self, sentence: int, states: tuple[Any, ...] | None, token: int) -> tuple[Any, ...]:
        """The states of all rules after one more token."""
        assert states is not None, "a live row comes from a live row"
        spelled = self._meaning(sentence, states) if token == UNK and self.named else None
        return tuple(
            rule.follow(sentence, state, token, spelled) for rule, state in zip(self.rules, states, strict=True)
        )

    def spelled(self, sentence: int, ids: Sequence[int]) -> dict[int, bytes]:
        """Say what each <unk> of a hypothesis stands for, where a rule had named it."""
        if not self.named or UNK not in ids:
            return {}
        states, found = self.first(sentence), dict[int, bytes]()
        for position, token in enumerate(ids):
            meaning = self._meaning(sentence, states) if token == UNK else None
            if meaning is not None:
                found[position] = meaning
            states = self.next(sentence, states, token)
        return found

    def _meaning(self, sentence: int, states: tuple[Any, ...]) -> bytes | None:
        meanings = (rule.meaning(sentence, state) for rule, state in zip(self.rules, states, strict=True))
        return next((meaning for meaning in meanings if meaning is not None), None)
