"""Phrases that must stand in the text, and beams that keep room for those hypotheses that write them.

Where a phrase is written is the model's choice. A hypothesis may not end before all of its phrases stand there; in
a beam, the rows are shared out between hypotheses that are at different stages (after Post and Vilar 2018, "Fast
lexically constrained decoding with dynamic beam allocation"), so that those with a phrase, which are less probable at
first, are not pushed out. Phrases are found in the text itself, whatever the tokens; the tokenizer's own
cut is what the search offers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from itda.batch import EOS, UNK
from itda.decode.automaton import Automaton
from itda.decode.history import Step
from itda.decode.ranking import Front, make_step
from itda.decode.rules import Rows, Rule, RuleBook
from itda.decode.scores import NEVER, best

Way = tuple[tuple[int, bytes], ...]  # tokens that spell a phrase, with the bytes of each


@dataclass(frozen=True)
class Phrase:
    """A phrase that must stand in the text `count` times, and the ways in which the tokenizer cuts it."""

    ways: tuple[Way, ...]
    count: int = 1

    @property
    def cost(self) -> int:
        """The most tokens that one of it takes."""
        return max(len(way) for way in self.ways)

    def grams(self, size: int) -> set[tuple[int, ...]]:
        """All n-grams of tokens inside it."""
        ids = [[token for token, _ in way] for way in self.ways]
        return {tuple(way[at : at + size]) for way in ids for at in range(len(way) - size + 1)}


@dataclass(frozen=True)
class Demand:
    """All that must stand in one text: phrase n sets bit n of the automaton."""

    automaton: Automaton
    phrases: tuple[Phrase, ...]


@dataclass(frozen=True)
class Stage:
    """How far a hypothesis is: how often each phrase is still to come, and which are half written.

    `begun` holds (phrase, way, tokens written); `last` the last tokens, where n-grams are kept free.
    """

    left: tuple[int, ...]
    node: int
    begun: tuple[tuple[int, int, int], ...] = ()
    last: tuple[int, ...] = ()

    @property
    def done(self) -> bool:
        """Say whether nothing is missing."""
        return not any(self.left)

    @property
    def bank(self) -> tuple[int, bool]:
        """Hypotheses of one bank compete with each other: as many phrases are missing, and one is half written."""
        return -sum(self.left), bool(self.begun)


class Required(Rule):
    """What must stand in each sentence. It comes last of all rules, to see what the others allow.

    Where no n-gram may be written twice, those of a missing phrase are kept for it: they are not written elsewhere,
    and a phrase that has used up one of its own is written to its end.
    """

    def __init__(self, demands: Sequence[Demand | None], *, alone: bool, size: int = 0) -> None:
        """Take what each sentence must hold; `alone`: a beam has one row, and no room to try; `size`: of n-grams."""
        self.demands, self.alone, self.size = demands, alone, size

    def extra_tokens(self, sentence: int) -> int:
        """Make room for the phrases."""
        demand = self.demands[sentence]
        return 0 if demand is None else sum(phrase.cost * phrase.count for phrase in demand.phrases)

    def names(self, sentence: int) -> set[int]:
        """Name all tokens of the phrases."""
        demand = self.demands[sentence]
        if demand is None:
            return set()
        return {token for phrase in demand.phrases for way in phrase.ways for token, _ in way}

    def start(self, sentence: int) -> Stage:
        """Nothing is written yet."""
        demand = self.demands[sentence]
        if demand is None:
            return Stage((), 0)
        return Stage(tuple(phrase.count for phrase in demand.phrases), demand.automaton.start)

    def follow(self, sentence: int, state: Stage, token: int, spelled: bytes | None) -> Stage:
        """Walk one token on, and see what it has completed."""
        demand = self.demands[sentence]
        if demand is None:
            return state
        written = demand.automaton.spelling.tokens[token] if spelled is None else spelled
        node, hits = demand.automaton.walk(state.node, written)
        left = tuple(max(0, count - (hits >> number & 1)) for number, count in enumerate(state.left))
        begun = tuple(
            (phrase, way, done + 1)
            for phrase, way, done in self._offers(demand, state)
            if demand.phrases[phrase].ways[way][done] == (token, written)
            and done + 1 < len(demand.phrases[phrase].ways[way])
            and left[phrase]
        )
        return Stage(left, node, begun, (*state.last, token)[1 - self.size :] if self.size > 1 else ())

    def meaning(self, sentence: int, state: Stage) -> bytes | None:
        """Name the unknown word of a phrase that may stand here."""
        demand = self.demands[sentence]
        if demand is None or state.done:
            return None
        offers = (demand.phrases[phrase].ways[way][done] for phrase, way, done in self._offers(demand, state))
        return next((spelled for token, spelled in offers if token == UNK), None)

    def offered(self, sentence: int, state: Stage) -> list[int]:
        """Name the tokens that bring a hypothesis nearer to what is missing."""
        demand = self.demands[sentence]
        if demand is None or state.done:
            return []
        return sorted({demand.phrases[p].ways[way][done][0] for p, way, done in self._offers(demand, state)})

    def apply(self, rows: Rows, states: Sequence[Stage]) -> None:
        """Let nothing end that lacks a phrase, and let what must be written be written while there is room."""
        open_ = [place for place, stage in enumerate(states) if not stage.done]
        if not open_:
            return
        stops = rows.own[[rows.rows[place] for place in open_]].argmax(dim=1).eq(EOS).tolist() if self.alone else []
        rows.block([rows.rows[place] for place in open_], [EOS])
        for number, place in enumerate(open_):
            sentence, stage, row = rows.sentences[place], states[place], rows.rows[place]
            if self.size:
                self._keep_free(rows, row, sentence, stage)
            bound = self.size and any(done >= self.size for *_, done in stage.begun)
            hurry = rows.room[place] <= self._cost(sentence, stage) or (self.alone and stops[number])
            if not (bound or hurry):
                continue
            offered = self._urgent(sentence, stage)
            if offered and (rows.log_probs[row, torch.as_tensor(offered)] > -math.inf).any():
                rows.allow_only(row, offered)

    def _keep_free(self, rows: Rows, row: int, sentence: int, stage: Stage) -> None:
        """Block what would use up an n-gram of a missing phrase outside of it."""
        demand = self.demands[sentence]
        assert demand is not None
        missing = [phrase for phrase, left in zip(demand.phrases, stage.left, strict=True) if left]
        ends = {gram[-1] for phrase in missing for gram in phrase.grams(self.size) if gram[:-1] == stage.last}
        inside = {
            demand.phrases[phrase].ways[way][done][0]
            for phrase, way, done in self._offers(demand, stage)
            if done >= self.size - 1
        }
        if ends - inside:
            rows.block([row], sorted(ends - inside))

    def _offers(self, demand: Demand, stage: Stage) -> list[tuple[int, int, int]]:
        """List what may be written next of what is missing: (phrase, way, tokens written)."""
        offers = list(stage.begun)
        for number, left in enumerate(stage.left):
            if left:
                offers += [(number, way, 0) for way in self._ways(demand, number, stage.node)]
        return offers

    def _ways(self, demand: Demand, number: int, node: int) -> list[int]:
        """Which ways of writing a phrase would be seen as the phrase here: it may not begin inside a word."""
        ways = demand.phrases[number].ways
        walks = (demand.automaton.walk(node, b"".join(spelled for _, spelled in way)) for way in ways)
        return [way for way, (_, hits) in enumerate(walks) if hits >> number & 1]

    def _urgent(self, sentence: int, stage: Stage) -> list[int]:
        """The tokens to write when there is no more time: of what is nearest to its end, if anything is begun."""
        demand = self.demands[sentence]
        if demand is None or not stage.begun:
            return self.offered(sentence, stage)
        saved = {
            (phrase, way, done): demand.phrases[phrase].cost - len(demand.phrases[phrase].ways[way]) + done
            for phrase, way, done in stage.begun
        }
        nearest = [one for one, tokens in saved.items() if tokens == max(saved.values())]
        return sorted({demand.phrases[phrase].ways[way][done][0] for phrase, way, done in nearest})

    def _cost(self, sentence: int, stage: Stage) -> int:
        """The tokens that it takes at the most to write all that is missing, if what is half written is given up."""
        demand = self.demands[sentence]
        assert demand is not None
        return sum(left * phrase.cost for left, phrase in zip(stage.left, demand.phrases, strict=True))


@dataclass(frozen=True)
class ChooseFromBanks:
    """Share the rows of a beam out between its banks, each of which ranks its own by log-probability.

    In turn, from the bank with most phrases down, each takes its best continuation until the beam is full. Of what is
    chosen so, eos closes its hypothesis; the others, chosen likewise without eos, live on. Where nothing is missing
    there is one bank, and the choice is that of `choose_best`.
    """

    book: RuleBook
    required: Required

    def __call__(self, front: Front, beam_size: int) -> Step:
        """Choose for each beam; the candidates are few, so they are sorted on the host."""
        beams, width, vocab = front.log_probs.shape
        count = min(2 * beam_size, vocab)
        values, tokens = (part.cpu().numpy() for part in best_of_rows(front, count))
        totals, at_limit = front.totals.cpu().numpy(), front.at_limit
        limits = [False] * beams if at_limit is None else at_limit.tolist()
        chosen = np.full((beams, beam_size), -math.inf), np.zeros((2, beams, beam_size), dtype=np.int64)
        closes = np.zeros((beams, width), dtype=bool)
        for beam in range(beams):
            banks = self._candidates(front, beam, totals[beam], values[beam], tokens[beam])
            for _, row, token in _shared(banks, beam_size):
                closes[beam, row] |= token == EOS
            if not limits[beam]:
                live = {bank: [one for one in ranked if one[2] != EOS] for bank, ranked in banks.items()}
                for place, (total, row, token) in enumerate(sorted(_shared(live, beam_size), key=_rank)):
                    chosen[0][beam, place], chosen[1][:, beam, place] = total, (row, token)
        device = front.totals.device
        live_totals = torch.as_tensor(chosen[0], device=device).to(front.totals.dtype)
        parents, next_tokens = torch.as_tensor(chosen[1], device=device)
        return make_step(front, live_totals, parents, next_tokens, torch.as_tensor(closes, device=device))

    def _candidates(
        self, front: Front, beam: int, totals: np.ndarray, values: np.ndarray, tokens: np.ndarray
    ) -> dict[tuple[int, bool], list[tuple[float, int, int]]]:
        """Put the continuations of a beam into banks, each best first: (sum, row, token)."""
        banks: dict[tuple[int, bool], list[tuple[float, int, int]]] = {}
        place = int(front.places[beam])
        sentence = self.book.sentence(place)
        which = self.book.rules.index(self.required)
        for row, states in enumerate(self.book.states(place)):
            if states is None or totals[row] == -math.inf:
                continue
            offered = [token for token in self.required.offered(sentence, states[which]) if token not in tokens[row]]
            extra = front.log_probs[beam, row, [*offered, EOS]].tolist()
            pairs = {
                **dict(zip([*offered, EOS], extra, strict=True)),
                **dict(zip(tokens[row], values[row], strict=True)),
            }
            for token, value in pairs.items():
                if value > -math.inf:
                    stage = states[which] if token == EOS else self.book.next(sentence, states, int(token))[which]
                    banks.setdefault(stage.bank, []).append((float(totals[row] + value), row, int(token)))
        return {bank: sorted(banks[bank], key=_rank) for bank in sorted(banks, reverse=True)}


def best_of_rows(front: Front, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The best continuations of each row by itself: values and tokens, beams x width x count."""
    log_probs = front.log_probs.clone()
    log_probs[:, :, NEVER] = -math.inf
    values, tokens = best(log_probs.flatten(0, 1), count)
    return values.unflatten(0, front.totals.shape), tokens.unflatten(0, front.totals.shape)


def _rank(candidate: tuple[float, int, int]) -> tuple[float, int, int]:
    total, row, token = candidate
    return -total, row, token


def _shared(
    banks: dict[tuple[int, bool], list[tuple[float, int, int]]], beam_size: int
) -> list[tuple[float, int, int]]:
    """Take the best of each bank in turn, then the second ..., until there are `beam_size`."""
    taken, depth = list[tuple[float, int, int]](), 0
    while len(taken) < beam_size and any(depth < len(ranked) for ranked in banks.values()):
        taken += [ranked[depth] for ranked in banks.values() if depth < len(ranked)]
        depth += 1
    return taken[:beam_size]
