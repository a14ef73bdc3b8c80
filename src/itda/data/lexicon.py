"""A lexicon from parallel text: for each source token its likely target tokens, by IBM Model 1, and the frequent ones.

The model (Brown et al. 1993, "The Mathematics of Statistical Machine Translation") takes each target token for the
translation of one source token of its sentence, or of an empty word that stands in all of them:

    p(t_j | s) = sum_i p(t_j | s_i) / (I + 1)        expectation: each s_i's share of t_j        maximisation: counts

It knows no order of words, so an iteration is a few sums over pairs of tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int64]
Pairs = Callable[[], Iterator[tuple[Sequence[int] | npt.NDArray, Sequence[int] | npt.NDArray]]]
ITERATIONS = 5
LINKS = 1 << 21  # pairs of tokens that are worked on at a time


@dataclass(frozen=True)
class Lexicon:
    """Target tokens for each source token, best first, with p(t | s); and target tokens, most frequent first.

    Source token s has `targets[ends[s - 1] : ends[s]]` (from 0 for the first). A sentence is offered `per_sentence`
    words of its own beside the frequent ones.
    """

    ends: Ids
    targets: Ids
    chances: npt.NDArray[np.float32]
    frequent: Ids
    per_sentence: int

    def own(self, source: Sequence[int]) -> Ids:
        """The words of one sentence: those that all of its tokens together make likeliest, frequent ones aside."""
        parts = [slice(self.ends[token - 1] if token else 0, self.ends[token]) for token in sorted(set(source))]
        if not parts:
            return np.zeros(0, dtype=np.int64)
        words, places = np.unique(np.concatenate([self.targets[part] for part in parts]), return_inverse=True)
        sums = np.bincount(places, np.concatenate([self.chances[part] for part in parts]), minlength=len(words))
        rare = ~np.isin(words, self.frequent)
        words, sums = words[rare], sums[rare]
        return words[np.argsort(-sums, kind="stable")[: self.per_sentence]]


def learn(pairs: Pairs, src_vocab: int, tgt_vocab: int, *, frequent: int, per_token: int, per_sentence: int) -> Lexicon:
    """Learn a lexicon from pairs of ids (called anew for each pass), with `per_token` targets of each source token."""
    keys, counts = _keys(pairs, src_vocab, tgt_vocab)
    chances = np.full(len(keys), 1.0 / tgt_vocab)
    for _ in range(ITERATIONS):
        chances = _improve(pairs, keys, chances, src_vocab, tgt_vocab)
    sources, targets = keys // tgt_vocab, keys % tgt_vocab
    order = np.lexsort((targets, -chances, sources))
    order = order[sources[order] < src_vocab]  # not the empty word: what it writes is frequent
    starts = np.searchsorted(sources[order], np.arange(src_vocab + 1))
    rank = np.arange(len(order)) - starts[sources[order]]
    kept = order[rank < per_token]
    ends = np.searchsorted(sources[kept], np.arange(src_vocab), side="right")
    by_count = np.argsort(-counts, kind="stable")
    seen = by_count[: min(frequent, int((counts > 0).sum()))]
    return Lexicon(ends, targets[kept], chances[kept].astype(np.float32), seen, per_sentence)


def _keys(pairs: Pairs, src_vocab: int, tgt_vocab: int) -> tuple[Ids, Ids]:
    """All (source, target) that meet in a pair, each as one number, sorted; and how often each target occurs."""
    counts, found, open_ = np.zeros(tgt_vocab, dtype=np.int64), np.zeros(0, dtype=np.int64), list[Ids]()
    for keys, _, targets in _links(pairs, src_vocab, tgt_vocab):
        counts += np.bincount(targets, minlength=tgt_vocab)
        open_.append(np.unique(keys))
        if sum(map(len, open_)) > max(LINKS, len(found)):
            found, open_ = np.unique(np.concatenate([found, *open_])), []
    return np.unique(np.concatenate([found, *open_])), counts


def _improve(
    pairs: Pairs, keys: Ids, chances: npt.NDArray[np.float64], src_vocab: int, tgt_vocab: int
) -> npt.NDArray[np.float64]:
    """One iteration: p(t | s) as the share that s has in all of t, summed over the pairs and normalised."""
    expected = np.zeros(len(keys))
    for links, positions, _ in _links(pairs, src_vocab, tgt_vocab):
        places = np.searchsorted(keys, links)
        weights = chances[places]
        weights /= np.bincount(positions, weights)[positions]
        expected += np.bincount(places, weights, minlength=len(keys))
    sources = keys // tgt_vocab
    return expected / np.bincount(sources, expected)[sources]


def _links(pairs: Pairs, src_vocab: int, tgt_vocab: int) -> Iterator[tuple[Ids, Ids, Ids]]:
    """Go through all links (source or empty word, target) of many pairs at a time.

    Gives each link's key and the number of the target position that it explains, and the target tokens.
    """
    held, links = list[tuple[Ids, Ids]](), 0
    for src, tgt in pairs():
        source = np.append(np.asarray(src, dtype=np.int64), src_vocab)
        target = np.asarray(tgt, dtype=np.int64)
        held.append((source, target))
        links += len(source) * len(target)
        if links > LINKS:
            yield _flat(held, tgt_vocab)
            held, links = [], 0
    if held:
        yield _flat(held, tgt_vocab)


def _flat(held: list[tuple[Ids, Ids]], tgt_vocab: int) -> tuple[Ids, Ids, Ids]:
    targets = np.concatenate([target for _, target in held])
    sizes = np.concatenate([np.full(len(target), len(source)) for source, target in held])
    sources = np.concatenate([np.tile(source, len(target)) for source, target in held])
    positions = np.repeat(np.arange(len(targets)), sizes)
    return sources * tgt_vocab + targets[positions], positions, targets
