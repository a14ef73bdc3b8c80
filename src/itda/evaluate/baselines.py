"""What a model must beat to have learned anything: copying the source, and the nearest training pair's target."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from itda.evaluate.metrics import check_counts
from itda.evaluate.writing import normalized

BITS = 21  # of a Unicode code point; three fit into a signed 64-bit number, so no two n-grams ever collide
EDGE = "\x00"  # stands before and after each text, so that its first and last letters count, and one letter has n-grams


def copy_source(sources: Sequence[str]) -> list[str]:
    """Answer each source with itself."""
    return list(sources)


class NearestSource:
    """Answers a source with the target of the most similar training source.

    Similar means: cosine of TF-IDF vectors of character bigrams and trigrams (NFC, cased), with weights
    tf * (ln((1 + N) / (1 + df)) + 1), N training sources of which df hold the n-gram. Of equally similar ones the
    first wins; where nothing is shared, the answer is the first pair's.
    """

    def __init__(self, sources: Sequence[str], targets: Sequence[str]) -> None:
        check_counts(training_sources=sources, training_targets=targets)
        self.targets = list(targets)
        count = len(sources)
        codes, owners = _ngrams(sources)
        self.terms, numbers = np.unique(codes, return_inverse=True)
        # One number for each (n-gram, text): sorted, they are the inverted index, list after list.
        entries, times = np.unique(numbers.astype(np.int64) * count + owners, return_counts=True)
        terms, self.texts = entries // count, entries % count
        self.starts = np.searchsorted(terms, np.arange(len(self.terms) + 1))
        self.idf = np.log((1 + count) / (1 + np.diff(self.starts))) + 1
        weights = times * self.idf[terms]
        norms = np.sqrt(np.bincount(self.texts, weights=weights**2, minlength=count))
        self.weights = weights / norms[self.texts]

    def nearest(self, source: str) -> tuple[int, float]:
        """Find the number of the most similar training source, and the cosine."""
        similarity = self._similarities(source)
        best = int(similarity.argmax())
        return best, float(similarity[best])

    def predict(self, sources: Sequence[str]) -> list[str]:
        """Answer each source."""
        return [self.targets[self.nearest(source)[0]] for source in sources]

    def _similarities(self, source: str) -> Float[np.ndarray, " texts"]:
        codes, times = np.unique(_ngrams([source])[0], return_counts=True)
        places = np.minimum(np.searchsorted(self.terms, codes), len(self.terms) - 1)
        known = self.terms[places] == codes
        places = places[known]
        weights = times[known] * self.idf[places]
        # An n-gram of no training source is equally far from all of them: it changes no ranking, but the cosine.
        unseen = times[~known] * (np.log(1 + len(self.targets)) + 1)
        norm = np.sqrt((weights**2).sum() + (unseen**2).sum())
        similarity = np.zeros(len(self.targets))
        for place, weight in zip(places.tolist(), (weights / norm).tolist(), strict=True):
            listed = slice(self.starts[place], self.starts[place + 1])
            # A text stands in a list once, so plain indexing adds right.
            similarity[self.texts[listed]] += weight * self.weights[listed]
        return similarity


def _ngrams(texts: Sequence[str]) -> tuple[Int[np.ndarray, " ngrams"], Int[np.ndarray, " ngrams"]]:
    """Number the bigrams and trigrams of all texts, and say which text each comes from."""
    edged = [f"{EDGE}{normalized(text)}{EDGE}" for text in texts]
    owner = np.repeat(np.arange(len(texts)), [len(text) for text in edged])
    points = np.frombuffer("".join(edged).encode("utf-32-le", "surrogatepass"), dtype="<u4").astype(np.int64) + 1
    codes, owners = [], []
    for order in (2, 3):
        last = max(0, len(points) - order + 1)
        code = np.zeros(last, dtype=np.int64)
        for place in range(order):
            code = (code << BITS) | points[place : place + last]
        inside = owner[:last] == owner[order - 1 :]  # an n-gram never reaches into the next text
        codes.append(code[inside])
        owners.append(owner[:last][inside])
    return np.concatenate(codes), np.concatenate(owners)
