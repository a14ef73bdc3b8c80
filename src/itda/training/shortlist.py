"""A vocabulary shortlist for a run that was trained: learned from its training pairs, kept in its folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itda import config as recipes
from itda.data.catalog import locate
from itda.data.lexicon import Lexicon, learn
from itda.data.store import build_store
from itda.errors import UserError
from itda.run import RunFolder
from itda.text.tokenizer import load_tokenizers
from itda.training.material import cache_folder

FREQUENT, PER_TOKEN, PER_SENTENCE, PAIRS = 1000, 100, 200, 200_000
Array = npt.NDArray[Any]


def make_shortlist(
    path: str | Path,
    *,
    frequent: int = FREQUENT,
    per_token: int = PER_TOKEN,
    per_sentence: int = PER_SENTENCE,
    pairs: int = PAIRS,
) -> Lexicon:
    """Learn the shortlist of a run from its own training corpus, and write it into the run folder.

    It holds the `frequent` most frequent target tokens and, for each source token, its `per_token` likeliest
    translations, of which a sentence is offered `per_sentence`. Of a corpus with more than `pairs` pairs, that many
    are read, evenly spread.
    """
    sizes = {"frequent": frequent, "per_token": per_token, "per_sentence": per_sentence}
    for name, count in (*sizes.items(), ("pairs", pairs)):
        if count < 1:
            raise UserError(f"{name} is {count}; it must be 1 or more")
    run = RunFolder.open(Path(path))
    recipe = recipes.parse(run.read_config(), source=str(run.config_path))
    if recipe.data.kind != "text":
        raise UserError(f"{path} writes real-valued sequences (data.kind = vectors), and a shortlist is one of tokens")
    if not run.weights_path.exists():
        raise UserError(f"{path} has no final weights yet (status {run.facts.get('status')}); go on with --resume")
    if recipe.data.source_factors or recipe.data.target_factors or recipe.data.tags:
        raise UserError(f"{path} reads factors or tags, and a shortlist knows words only; use the whole vocabulary")
    run.verify("tokenizer")
    tokenizers = load_tokenizers(run.tokenizer_path)
    files = locate(recipe.data.train, seed=recipe.data.seed, pairs=recipe.data.pairs)
    store = build_store(files, tokenizers, recipe.data, cache_folder() / "stores")
    numbers = np.linspace(0, len(store), min(pairs, len(store)), endpoint=False).astype(np.int64).tolist()

    def ids() -> Iterator[tuple[Array, Array]]:
        return ((store.src_ids(number), store.tgt_ids(number)) for number in numbers)

    lexicon = learn(ids, tokenizers.src.vocab_size, tokenizers.tgt.vocab_size, **sizes)
    with RunFolder.resume(Path(path)) as locked:
        locked.write_shortlist(lexicon, **sizes, pairs=len(numbers))
    return lexicon
