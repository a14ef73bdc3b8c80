"""The work itself, made once and given to every side: batches of ids to train on, sources to decode."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np

from itda.batch import SPECIALS
from itda.config import TokenizerConfig
from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.data.plan import Plan
from itda.text.tokenizer import TokenizerPair, train_tokenizers
from race.child import BOS, EOS, PAD

CORPUS = "multi30k_en_de"
VOCABULARY = 8000
assert SPECIALS.index("<pad>") == PAD
assert SPECIALS.index("<eos>") == EOS
Ids = list[list[int]]


@dataclass(frozen=True)
class Prepared:
    """Ids of a corpus, and the files made of them so far."""

    folder: Path
    vocab_size: int
    src: Ids
    tgt: Ids
    test: Ids

    def batches(self, batch: int, unit: str, count: int) -> Path:
        """Write the first `count` batches of an epoch that itda plans, and name their file."""
        lengths = np.array([(len(s), len(t)) for s, t in zip(self.src, self.tgt, strict=True)], dtype=np.int32)
        return self._write(f"batches-{batch}-{unit}-{count}.npz", lambda: _updates(Plan(lengths, batch, unit)), count)

    def drawn(self, batch: int, count: int) -> Path:
        """Write `count` batches of sentences drawn at random, whatever their lengths, and name their file."""
        order = np.random.default_rng(1).permutation(len(self.src))
        cut = [tuple(order[start : start + batch]) for start in range(0, len(order) - batch + 1, batch)]
        return self._write(f"drawn-{batch}-{count}.npz", lambda: cycle(cut), count)

    def _write(self, name: str, updates: Callable[[], Iterator[tuple[int, ...]]], count: int) -> Path:
        path = self.folder / name
        if not path.exists():
            arrays = {}
            for number, rows in enumerate(islice(updates(), count)):
                arrays[f"src{number}"] = padded([[*self.src[row], EOS] for row in rows])
                arrays[f"tgt{number}"] = padded([[BOS, *self.tgt[row], EOS] for row in rows])
            np.savez(path, **arrays)
        return path

    def sources(self, count: int = 0) -> Path:
        """Write the test sources, the first `count` of them where it is given, and name their file."""
        path = self.folder / f"sources-{count or len(self.test)}.json"
        if not path.exists():
            path.write_text(json.dumps([[*ids, EOS] for ids in self.test[: count or None]]), encoding="utf-8")
        return path

    def write_lines(self, count: int) -> tuple[Path, Path]:
        """Write training pairs as text with a word for each id, for the peers' own command lines."""
        paths = self.folder / f"lines-{count}.src", self.folder / f"lines-{count}.tgt"
        for path, side in zip(paths, (self.src, self.tgt), strict=True):
            lines = [" ".join(f"t{token}" for token in ids) + "\n" for ids in side[:count]]
            path.write_text("".join(lines), encoding="utf-8")
        return paths


def _updates(plan: Plan) -> Iterator[tuple[int, ...]]:
    epoch = 0
    while True:
        for update in plan.epoch(epoch):
            yield update.micro[0]
        epoch += 1


def padded(sentences: Ids) -> np.ndarray:
    """Pad lists of ids on the right."""
    made = np.full((len(sentences), max(map(len, sentences))), PAD, dtype=np.int64)
    for row, ids in enumerate(sentences):
        made[row, : len(ids)] = ids
    return made


def prepare(folder: Path) -> Prepared:
    """Encode the corpus with a joint BPE vocabulary learned on its training pairs; kept in the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    cache = folder / "ids.json"
    if not cache.exists():
        pairs = [(pair.src, pair.tgt) for pair in read_pairs(locate(f"{CORPUS}/train"))]
        tokenizers: TokenizerPair = train_tokenizers(TokenizerConfig(vocab_size=VOCABULARY), lambda: iter(pairs), 1)
        test = [pair.src for pair in read_pairs(locate(f"{CORPUS}/test"))]
        encode = tokenizers.src.encode
        sides = [[encode(src) for src, _ in pairs], [tokenizers.tgt.encode(tgt) for _, tgt in pairs]]
        found = {"vocab_size": tokenizers.tgt.vocab_size, "src": sides[0], "tgt": sides[1]}
        cache.write_text(json.dumps(found | {"test": [encode(text) for text in test]}), encoding="utf-8")
    return Prepared(folder, **json.loads(cache.read_text(encoding="utf-8")))
