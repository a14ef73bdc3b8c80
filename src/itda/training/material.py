"""What a session trains on: tokenizers learnt or taken over, stores, the plan of batches, and facts about them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itda.config import Config
from itda.data.catalog import locate
from itda.data.corpus import read_pairs
from itda.data.links import find_alignments
from itda.data.plan import Plan, plan_for
from itda.data.store import Store, build_store
from itda.data.vectors import VectorPairs, load_vectors
from itda.errors import UserError
from itda.run import RunFolder
from itda.text.sides import learn_sides
from itda.text.tokenizer import TokenizerPair, load_tokenizers
from itda.text.wrapped import plain_text
from itda.training.dataset import Dataset, text_dataset, vector_dataset
from itda.training.start import Start


@dataclass
class Material:
    """What a session trains on; vectors have no tokenizers, and nothing that is decoded for a metric."""

    dataset: Dataset
    facts: dict[str, Any]  # of each split: name, number of pairs, checksums, licence
    tokenizers: TokenizerPair | None = None
    valid_pairs: list[tuple[str, str]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)

    def sizes(self) -> tuple[Any, ...]:
        """How large the vocabularies are, and those of the factors."""
        return self.tokenizers.sizes() if self.tokenizers else (0, 0, (), ())


def gather(run: RunFolder, config: Config, start: Start | None, tokenizers: TokenizerPair | None) -> Material:
    """Read what the recipe names, and refuse data that have changed since the run began."""
    material = _text(run, config, start, tokenizers) if config.data.kind == "text" else _vectors(config)
    _same_data(run, material.facts)
    return material


def learn_tokenizers(config: Config, start: Start | None) -> TokenizerPair:
    """Learn vocabularies from the training pairs, or take over (and extend) those of the run to start from."""
    data = config.data
    files = locate(data.train, seed=data.seed, pairs=data.pairs)
    if files.kind == "stdin":
        raise UserError("data.train is -, and training reads its pairs more than once; write them into a file first.")
    if start is not None:
        return start.vocabulary(config, lambda: ((pair.src, pair.tgt) for pair in read_pairs(files, swap=data.swap)))
    numbered = lambda: ((pair.place(files), pair.src, pair.tgt) for pair in read_pairs(files, swap=data.swap))  # noqa: E731
    return learn_sides(data, config.tokenizer, numbered, config.train.seed)


def _text(run: RunFolder, config: Config, start: Start | None, tokenizers: TokenizerPair | None) -> Material:
    data, notices = config.data, list[str]()
    if run.has("tokenizer"):
        run.verify("tokenizer")
        tokenizers = load_tokenizers(run.tokenizer_path)
    elif tokenizers is None:
        tokenizers = learn_tokenizers(config, start)
        notices += tokenizers.notices
    files = locate(data.train, seed=data.seed, pairs=data.pairs)
    # Alignments that nothing reads are not carried along.
    alignments = find_alignments(data) if config.train.guided_alignment.weight else None
    store = build_store(files, tokenizers, data, cache_folder() / "stores", alignments=alignments)
    notices += _notices_of(data.train, store)
    facts = {"train": _facts_of(data.train, store)}
    valid, valid_pairs = None, []
    if data.valid:
        valid = build_store(
            locate(data.valid, seed=data.seed), tokenizers, data, cache_folder() / "stores", training=False
        )
        notices += _notices_of(data.valid, valid)
        facts["valid"] = _facts_of(data.valid, valid)
        wanted = min(len(valid), config.train.metric_sentences)
        valid_pairs = [(valid.src_text(n), plain_text(tokenizers.tgt, valid.tgt_text(n))) for n in range(wanted)]
    plan = plan_for(
        store, tokenizers, config.train.batch, config.train.batch_unit, config.train.accumulate, config.train.seed
    )
    facts["train"]["padding"] = plan.padding()
    return Material(text_dataset(store, valid, plan, tokenizers), facts, tokenizers, valid_pairs, notices)


def _notices_of(name: str, store: Store) -> list[str]:
    rebuilt = [f"its store in the cache was not whole and is built anew: {store.rebuilt}"] if store.rebuilt else []
    return [f"{name}: {message}" for message in (*rebuilt, *store.report.messages())]


def _facts_of(name: str, store: Store) -> dict[str, Any]:
    return {"name": name, "pairs": len(store), "sha256": sorted(store.inputs.values()), "licence": list(store.licence)}


def _vectors(config: Config) -> Material:
    pairs = load_vectors(config.data.train, config.data)
    valid = load_vectors(config.data.valid, config.data) if config.data.valid else None
    plan = Plan(pairs.lengths(), config.train.batch, "sentences", config.train.accumulate, config.train.seed)
    named: list[tuple[str, str, VectorPairs | None]] = [
        ("train", config.data.train, pairs),
        ("valid", config.data.valid, valid),
    ]
    facts = {
        split: {"name": name, "pairs": len(data), "sha256": [data.sha256()]} for split, name, data in named if data
    }
    return Material(vector_dataset(pairs, valid, plan), facts)


def _same_data(run: RunFolder, facts: dict[str, Any]) -> None:
    """Refuse to go on with a run whose data have changed."""
    for split, now in facts.items():
        before = run.facts.get("data", {}).get(split)
        if before and before["sha256"] != now["sha256"]:
            raise UserError(
                f"{now['name']} is not what {run.path} was begun with (its checksum has changed); "
                "put the old data back, or begin anew with --overwrite."
            )


def cache_folder() -> Path:
    """Where stores are kept: ITDA_CACHE, or the user's cache folder."""
    named = os.environ.get("ITDA_CACHE")
    return Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "itda"
