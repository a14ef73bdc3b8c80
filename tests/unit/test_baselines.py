"""The nearest training source is the one that the plain formula finds, and quickly."""

import math
import random
import time
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.errors import UserError
from itda.evaluate.baselines import NearestSource, copy_source

TEXT = st.text(alphabet="ab개é 🎉", max_size=8)


def grams(text):
    edged = f"\x00{text}\x00"
    return Counter(edged[i : i + n] for n in (2, 3) for i in range(len(edged) - n + 1))


def cosines(sources, query):
    """TF-IDF cosine as a textbook writes it."""
    held = Counter(gram for source in sources for gram in grams(source))

    def vector(text):
        return {gram: tf * (math.log((1 + len(sources)) / (1 + held[gram])) + 1) for gram, tf in grams(text).items()}

    held = Counter(gram for source in sources for gram in set(grams(source)))
    wanted = vector(query)
    found = []
    for source in sources:
        other = vector(source)
        dot = sum(weight * other.get(gram, 0.0) for gram, weight in wanted.items())
        lengths = [math.sqrt(sum(weight**2 for weight in each.values())) for each in (wanted, other)]
        found.append(dot / math.prod(lengths))
    return found


@given(st.lists(TEXT, min_size=1, max_size=8), TEXT)
@settings(deadline=None, max_examples=150)
def test_cosine_is_the_textbook_one(sources, query):
    expected = cosines(sources, query)
    best, similarity = NearestSource(sources, sources).nearest(query)
    assert similarity == pytest.approx(max(expected), abs=1e-12)
    assert expected[best] == pytest.approx(max(expected), abs=1e-12)


@given(st.lists(TEXT, min_size=1, max_size=8, unique=True))
@settings(deadline=None, max_examples=50)
def test_a_training_source_finds_itself(sources):
    targets = [str(number) for number in range(len(sources))]
    assert NearestSource(sources, targets).predict(sources) == targets


def test_nearest_reads_sense():
    sources = ["A dog runs.", "Two men play chess.", "개가 바닷가를 달린다."]
    nearest = NearestSource(sources, ["Ein Hund läuft.", "Zwei Männer spielen Schach.", "A dog runs on the beach."])
    assert nearest.predict(["Some men play chess", "바닷가를 걷는다.", "A dog sleeps."]) == [
        "Zwei Männer spielen Schach.",
        "A dog runs on the beach.",
        "Ein Hund läuft.",
    ]
    assert nearest.nearest("qqq")[1] == 0.0
    assert nearest.predict(["qqq"]) == ["Ein Hund läuft."]


def test_ties_go_to_the_first():
    assert NearestSource(["b", "a", "a"], ["0", "1", "2"]).predict(["a"]) == ["1"]


def test_composed_and_decomposed_letters_are_one():
    assert NearestSource(["e", "\u00e9"], ["0", "1"]).predict(["e\u0301"]) == ["1"]


def test_copying():
    assert copy_source(["a", ""]) == ["a", ""]


def test_unequal_training_sides_are_refused():
    with pytest.raises(UserError, match="got 2 training sources and 1 training targets"):
        NearestSource(["a", "b"], ["a"])
    with pytest.raises(UserError, match="got 0 training sources"):
        NearestSource([], [])


@pytest.mark.long
def test_forty_thousand_pairs_in_a_minute():
    dice = random.Random(1)
    words = ["".join(dice.choices("etaoinshrdlu", k=dice.randint(2, 9))) for _ in range(8000)]
    texts = [" ".join(dice.choices(words, k=dice.randint(4, 30))) for _ in range(41_000)]
    start = time.process_time()
    NearestSource(texts[:40_000], texts[:40_000]).predict(texts[40_000:])
    assert time.process_time() - start < 60
