"""What a run does on a test set: the pairs, what it writes for their sources, and how likely it finds the targets."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from itda.config import Config, parse
from itda.data.catalog import locate
from itda.data.corpus import CorpusFiles, ReadReport, read_pairs
from itda.errors import UserError
from itda.evaluate.metrics import Likelihood
from itda.run import RunFolder
from itda.seq2seq import Seq2Seq

Say = Callable[[str], None]


@dataclass(frozen=True)
class Outputs:
    """What a run wrote for each source, and how likely it found each reference."""

    texts: list[str]
    likelihood: Likelihood


def config_of(path: Path) -> Config:
    """Read the recipe of a run."""
    run = RunFolder.open(path)
    return parse(run.read_config(), source=str(run.config_path))


def corpus_of(config: Config, path: Path | None, pairs: str) -> CorpusFiles:
    """Find the pairs that were named, or those that the recipe of the run at `path` keeps for its test."""
    if pairs:
        return locate(pairs)
    if not config.data.test:
        raise UserError(f"{path} has no data.test; say what to measure on: itda evaluate {path} PAIRS")
    return locate(config.data.test, seed=config.data.seed)


def read_corpus(files: CorpusFiles, swap: bool, say: Say) -> list[tuple[str, str]]:
    """Read the pairs of a corpus in the direction of a run; what is skipped is said."""
    report = ReadReport()
    found = [(pair.src, pair.tgt) for pair in read_pairs(files, swap=swap, report=report)]
    for message in report.messages():
        say(f"{files.name}: {message}")
    return found


def outputs(model: Seq2Seq, pairs: Sequence[tuple[str, str]], beam: int | None, say: Say) -> Outputs:
    """Ask a run what it writes for the sources (no teacher forcing), and how likely the references are (with it)."""
    texts = []
    for hypothesis in model.generate_lazily((src for src, _ in pairs), beam_size=beam):
        if hypothesis.notice:
            say(hypothesis.notice)
        texts.append(hypothesis.text)
    return Outputs(texts, Likelihood.of(model.score(pairs), [model.words("tgt", tgt) for _, tgt in pairs]))
