"""The task of a race for quality: lines of one vocabulary for every system, and the way back from words to a BLEU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from race.prepared import CORPUS, VOCABULARY

from itda.config import TokenizerConfig
from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.evaluate.metrics import text_metrics
from itda.text.tokenizer import Tokenizer, train_tokenizers

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True)
class Task:
    """A corpus as text, and as lines in which each id of the joint vocabulary is a word: `t17 t1042 t9`."""

    folder: Path
    tokenizer: Tokenizer
    test: tuple[tuple[str, str], ...]

    def lines(self, split: str, side: str) -> Path:
        """Name the file of a split's side, src or tgt."""
        return self.folder / f"{split}.{side}"

    @property
    def words(self) -> list[str]:
        """All words that lines are made of."""
        return [f"t{number}" for number in range(4, self.tokenizer.vocab_size)]

    def text(self, line: str) -> str:
        """Turn a line of words back into text; what is no word of the vocabulary is left out."""
        return self.tokenizer.decode([int(word[1:]) for word in line.split() if word[:1] == "t" and word[1:].isdigit()])

    def measure(self, outputs: Sequence[str]) -> dict[str, float]:
        """Give the test set's BLEU and chrF, cased, against the raw references."""
        found = text_metrics(list(outputs), [tgt for _, tgt in self.test], ("bleu", "chrf"))
        return {metric.name: round(metric.score, 2) for metric in found}


def make_task(folder: Path) -> Task:
    """Encode the corpus by the joint BPE that itda's recipes learn, and write the lines once."""
    folder.mkdir(parents=True, exist_ok=True)
    pairs = {split: [(pair.src, pair.tgt) for pair in read_pairs(locate(f"{CORPUS}/{split}"))] for split in SPLITS}
    tokenizers = train_tokenizers(TokenizerConfig(vocab_size=VOCABULARY), lambda: iter(pairs["train"]), 1)
    task = Task(folder, tokenizers.tgt, tuple(pairs["test"]))
    for split, found in pairs.items():
        for number, (side, tokenizer) in enumerate((("src", tokenizers.src), ("tgt", tokenizers.tgt))):
            lines = (" ".join(f"t{i}" for i in tokenizer.encode(pair[number])) + "\n" for pair in found)
            task.lines(split, side).write_text("".join(lines), encoding="utf-8")
    return task
