"""What training reads: text from a store or vectors in memory, as updates for the loop and batches for validation."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from itda.batch import Batch, token_batch, vector_batch
from itda.data.plan import Plan, evaluation_batches
from itda.data.store import Store
from itda.data.vectors import VectorPairs
from itda.training.loop import Update

KEPT_UPDATES = 64
VALIDATION_TOKENS = 4096  # padded positions of a validation batch


@dataclass(frozen=True)
class Dataset:
    """Batches of the training pairs, planned, and of the validation pairs, each once."""

    plan: Plan
    update: Callable[[int, int], Iterator[Update]]
    validation: Callable[[], Iterator[Batch]]


def text_dataset(store: Store, valid: Store | None, plan: Plan) -> Dataset:
    """Text: the plan's pair numbers become ids from the store, or ids that the plan sampled."""

    def updates(epoch: int, start: int) -> Iterator[Update]:
        for planned in plan.epoch(epoch, start):
            batches = tuple(token_batch(src, tgt, numbers) for src, tgt, numbers in planned.sides(store))
            yield Update(batches, planned.num_targets)

    def validation() -> Iterator[Batch]:
        if valid is not None:
            for numbers in evaluation_batches(valid.lengths(), VALIDATION_TOKENS, "tokens"):
                yield token_batch(*valid.encoded(numbers), numbers)

    return Dataset(plan, updates, validation)


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
