"""What a text must begin with, and what must not stand in it; both hold for the text, however it is cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from itda.batch import UNK
from itda.decode.automaton import Automaton, Spelling
from itda.decode.rules import Rows, Rule


class Banned(Rule):
    """Phrases that must not stand in the text. The state is a node of the sentence's automaton."""

    def __init__(self, automata: Sequence[Automaton | None]) -> None:
        """Take the automaton of each sentence (None: nothing is banned); equal ones are better the same object."""
        self.automata = automata
        self._blocked: dict[tuple[int, int], np.ndarray] = {}

    def start(self, sentence: int) -> int:
        """Nothing is written yet."""
        automaton = self.automata[sentence]
        return 0 if automaton is None else automaton.start

    def follow(self, sentence: int, state: int, token: int, spelled: bytes | None) -> int:
        """Walk one token on."""
        automaton = self.automata[sentence]
        if automaton is None:
            return state
        return automaton.walk(state, automaton.spelling.tokens[token] if spelled is None else spelled)[0]

    def apply(self, rows: Rows, states: Sequence[int]) -> None:
        """Block each token inside which a banned phrase ends."""
        alike: dict[tuple[int, int, bool], list[int]] = {}
        automata: dict[int, Automaton] = {}
        for row, sentence, state, meaning in zip(rows.rows, rows.sentences, states, rows.meanings, strict=True):
            automaton = self.automata[sentence]
            if automaton is not None:
                automata[id(automaton)] = automaton
                alike.setdefault((id(automaton), state, meaning is not None), []).append(row)
                if meaning is not None and automaton.walk(state, meaning)[1]:
                    rows.block([row], [UNK])
        for (which, node, named), members in alike.items():
            if (which, node) not in self._blocked:
                self._blocked[which, node] = np.flatnonzero(automata[which].walks(node).hits)
            blocked = self._blocked[which, node]
            rows.block(members, blocked[blocked != UNK] if named else blocked)


@dataclass(frozen=True)
class Beginning:
    """A text that an output must begin with: the tokens that are sure, then bytes that any token may spell.

    The last word of a prefix may be the beginning of a longer one ("The hou" of "The house"), which the tokenizer cuts
    in another way; so its tokens are left to the model, as long as its text is the same.
    """

    head: tuple[tuple[int, bytes], ...]
    tail: bytes
    unknown: tuple[tuple[int, int], ...]  # where in the tail an unknown word or character begins and ends

    @staticmethod
    def of(spelling: Spelling, text: str) -> Beginning:
        """Cut a text before its last word."""
        parts = spelling.tokenizer.parts(text)
        raw = b"".join(spelled for _, spelled in parts)
        cut, length, head = max(0, raw.rfind(b" ")), 0, 0
        while head < len(parts) and length + len(parts[head][1]) <= cut:
            length += len(parts[head][1])
            head += 1
        unknown, end = list[tuple[int, int]](), 0
        for token, spelled in parts[head:]:
            if token == UNK:
                unknown.append((end, end + len(spelled)))
            end += len(spelled)
        return Beginning(tuple(parts[:head]), raw[length:], tuple(unknown))

    @property
    def longest(self) -> int:
        """The most tokens that it takes."""
        return len(self.head) + len(self.tail)

    @property
    def names_unknown(self) -> bool:
        """Say whether some of it is in no vocabulary."""
        return bool(self.unknown) or any(token == UNK for token, _ in self.head)


class Begins(Rule):
    """Texts that the outputs must begin with. The state counts tokens of the head, then bytes of the tail."""

    def __init__(self, spelling: Spelling, beginnings: Sequence[Beginning | None]) -> None:
        """Take what each sentence must begin with; None: anything."""
        self.spelling, self.beginnings = spelling, beginnings
        self._allowed: dict[bytes, np.ndarray] = {}

    def extra_tokens(self, sentence: int) -> int:
        """Make room for the prefix."""
        beginning = self.beginnings[sentence]
        return 0 if beginning is None else beginning.longest

    def names(self, sentence: int) -> set[int]:
        """Name all tokens that may spell the prefix."""
        beginning = self.beginnings[sentence]
        if beginning is None:
            return set()
        tails = (beginning.tail[start:] for start in range(len(beginning.tail)))
        return {token for token, _ in beginning.head}.union(*(self._spelling_of(tail).tolist() for tail in tails))

    def start(self, sentence: int) -> int:
        """Nothing is written yet."""
        return 0

    def follow(self, sentence: int, state: int, token: int, spelled: bytes | None) -> int:
        """Count on."""
        beginning = self.beginnings[sentence]
        if beginning is None or state >= beginning.longest:
            return state
        if state < len(beginning.head):
            return state + 1
        return min(beginning.longest, state + len(self.spelling.tokens[token] if spelled is None else spelled))

    def meaning(self, sentence: int, state: int) -> bytes | None:
        """Name the unknown word of the prefix that stands here."""
        beginning = self.beginnings[sentence]
        if beginning is None or state >= beginning.longest:
            return None
        if state < len(beginning.head):
            token, spelled = beginning.head[state]
            return spelled if token == UNK else None
        begin = state - len(beginning.head)
        return next((beginning.tail[begin:end] for start, end in beginning.unknown if start == begin), None)

    def apply(self, rows: Rows, states: Sequence[int]) -> None:
        """Allow nothing but what goes on with the prefix, as long as there is some left."""
        for row, sentence, state in zip(rows.rows, rows.sentences, states, strict=True):
            beginning = self.beginnings[sentence]
            if beginning is None or state >= beginning.longest:
                continue
            if state < len(beginning.head):
                rows.allow_only(row, [beginning.head[state][0]])
                continue
            allowed = self._spelling_of(beginning.tail[state - len(beginning.head) :])
            named = self.meaning(sentence, state) is not None
            rows.allow_only(row, [*allowed.tolist(), UNK] if named else allowed)

    def _spelling_of(self, rest: bytes) -> np.ndarray:
        """Find the tokens whose bytes go on with `rest`, and maybe beyond it; never an <unk>."""
        if rest not in self._allowed:
            fits = [
                token
                for token, spelled in enumerate(self.spelling.tokens)
                if spelled and token != UNK and (rest.startswith(spelled) or spelled.startswith(rest))
            ]
            self._allowed[rest] = np.array(fits, dtype=np.int64)
        return self._allowed[rest]
