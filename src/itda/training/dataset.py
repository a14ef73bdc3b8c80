"""What training reads: text from a store or vectors in memory, as updates for the loop and batches for validation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import torch

from itda.batch import Batch, token_batch, vector_batch
from itda.data.links import Links, alignment_matrix, relifted
from itda.data.plan import Plan, evaluation_batches
from itda.data.store import Store
from itda.data.vectors import VectorPairs
from itda.text.tokenizer import TokenizerPair
from itda.training.loop import Update

KEPT_UPDATES = 64
VALIDATION_TOKENS = 4096  # padded positions of a validation batch


@dataclass(frozen=True)
class Dataset:
    """Batches of the training pairs, planned, and of the validation pairs, each once."""

    plan: Plan
    update: Callable[[int, int], Iterator[Update]]
    validation: Callable[[], Iterator[Batch]]


def text_dataset(store: Store, valid: Store | None, plan: Plan, tokenizers: TokenizerPair) -> Dataset:
    """Text: the plan's pair numbers become ids from the store, or ids that the plan sampled."""

    def collate(src: list[list[int]], tgt: list[list[int]], numbers: tuple[int, ...]) -> Batch:
        batch = token_batch(src, tgt, numbers)
        if not store.aligned:
            return batch
        links = links_of(store, tokenizers, numbers, zip(src, tgt, strict=True))
        matrix = alignment_matrix(links, batch.tgt_out.mask.shape[1], batch.src.mask.shape[1])
        return replace(batch, alignment=torch.from_numpy(matrix))

    def updates(epoch: int, start: int) -> Iterator[Update]:
        for planned in plan.epoch(epoch, start):
            batches = tuple(collate(src, tgt, numbers) for src, tgt, numbers in planned.sides(store))
            yield Update(batches, planned.num_targets)

    def validation() -> Iterator[Batch]:
        if valid is not None:
            for numbers in evaluation_batches(valid.lengths(), VALIDATION_TOKENS, "tokens"):
                yield token_batch(*valid.encoded(numbers), numbers)

    return Dataset(plan, updates, validation)


def links_of(
    store: Store, tokenizers: TokenizerPair, numbers: Iterable[int], ids: Iterable[tuple[list[int], list[int]]]
) -> list[Links]:
    """The links of some pairs; where their subwords were sampled, those of the store are carried over."""
    if tokenizers.src.deterministic and tokenizers.tgt.deterministic:
        return [store.links(number) for number in numbers]
    spell = [lambda some, side=side: [side.spelling[i] for i in some] for side in (tokenizers.src, tokenizers.tgt)]
    found = []
    for number, sampled in zip(numbers, ids, strict=True):
        stored = (store.src_ids(number), store.tgt_ids(number))
        before, after = ([one(some) for one, some in zip(spell, both, strict=True)] for both in (stored, sampled))
        found.append(relifted(store.links(number), before, after))
    return found


def vector_dataset(pairs: VectorPairs, valid: VectorPairs | None, plan: Plan) -> Dataset:
    """Real-valued sequences, held in memory; a few series make the same updates again and again, which are kept."""

    def collate(pairs: VectorPairs, numbers: tuple[int, ...]) -> Batch:
        src = [torch.from_numpy(pairs.src[n]) for n in numbers]
        return vector_batch(src, [torch.from_numpy(pairs.tgt[n]) for n in numbers], numbers)

    @functools.lru_cache(maxsize=KEPT_UPDATES)
    def update(micro: tuple[tuple[int, ...], ...]) -> Update:
        batches = tuple(collate(pairs, numbers) for numbers in micro)
        return Update(batches, sum(batch.num_targets for batch in batches))

    def updates(epoch: int, start: int) -> Iterator[Update]:
        for planned in plan.epoch(epoch, start):
            yield update(planned.micro)

    def validation() -> Iterator[Batch]:
        if valid is not None:
            for numbers in evaluation_batches(valid.lengths(), VALIDATION_TOKENS, "tokens"):
                yield collate(valid, numbers)

    return Dataset(plan, updates, validation)
