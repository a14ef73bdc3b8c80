"""The plan: every pair once an epoch, whole updates, the same order for the same seed, resumed anywhere."""

import random
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.config import DataConfig, TokenizerConfig
from itda.data import plan as module
from itda.data.corpus import CorpusFiles
from itda.data.order import _splitmix, mixed, windows
from itda.data.plan import Plan, Update, evaluation_batches, length_batches, plan_for
from itda.data.store import build_store
from itda.errors import UserError
from itda.text.tokenizer import train_tokenizers

LENGTHS = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=120).map(
    lambda rows: np.array(rows, dtype=np.int32)
)


def drawn(lengths: np.ndarray):
    """Make a sampler whose ids say which pair they are of; it lengthens each side by a draw."""

    def sample(number: int, random: random.Random) -> tuple[list[int], list[int]]:
        src, tgt = (int(length) + random.randrange(3) for length in lengths[number])
        return [number] * src, [number] * tgt

    return sample


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    lengths = draw(LENGTHS)
    return Plan(
        lengths,
        batch=draw(st.integers(1, 70)),
        batch_unit=draw(st.sampled_from(["sentences", "tokens"])),
        accumulate=draw(st.integers(1, 4)),
        seed=draw(st.integers(0, 3)),
        sampler=drawn(lengths) if draw(st.booleans()) else None,
        window=draw(st.sampled_from([1, 7, 32, 65536])),
    )


def flat(updates: list[Update]) -> list[int]:
    return [number for update in updates for micro in update.micro for number in micro]


@settings(deadline=None, max_examples=150)
@given(plan=plans(), epoch=st.integers(0, 5))
def test_every_pair_is_in_one_batch_of_an_epoch(plan: Plan, epoch: int) -> None:
    updates = list(plan.epoch(epoch))
    assert sorted(flat(updates)) == list(range(len(plan.lengths)))
    assert all(len(update.micro) == plan.accumulate for update in updates[:-1])
    assert 1 <= len(updates[-1].micro) <= plan.accumulate
    if plan.sampler is None or plan.batch_unit == "sentences":
        assert len(updates) == plan.updates_per_epoch(epoch)


@settings(deadline=None, max_examples=150)
@given(plan=plans(), epoch=st.integers(0, 5), data=st.data())
def test_a_resumed_epoch_is_the_rest_of_the_whole_one(plan: Plan, epoch: int, data: st.DataObject) -> None:
    updates = list(plan.epoch(epoch))
    start = data.draw(st.integers(0, len(updates) + 1))
    assert list(plan.epoch(epoch, start)) == updates[start:]


@settings(deadline=None, max_examples=150)
@given(plan=plans())
def test_counts_and_budget_are_those_of_the_ids(plan: Plan) -> None:
    real = padded = 0
    for update in plan.epoch(0):
        targets = tokens = positions = 0
        for place, micro in enumerate(update.micro):
            lengths = plan.lengths[list(micro)]
            if update.sampled is not None:
                assert [(set(src), set(tgt)) for src, tgt in update.sampled[place]] == [({n}, {n}) for n in micro]
                lengths = np.array([(len(src), len(tgt)) for src, tgt in update.sampled[place]])
            if plan.batch_unit == "sentences":
                assert len(micro) <= plan.batch
            else:
                assert (lengths.max() + 1) * len(micro) <= plan.batch or len(micro) == 1
            targets += lengths[:, 1].sum() + len(micro)
            tokens += lengths.sum() + 2 * len(micro)
            positions += (lengths.max(axis=0) + 1).sum() * len(micro)
        assert (update.num_targets, update.tokens, update.positions) == (targets, tokens, positions)
        real, padded = real + update.tokens, padded + update.positions
    if plan.sampler is None:
        assert plan.padding(0) == pytest.approx(1 - real / padded)


LONG = np.stack(
    [np.random.default_rng(0).integers(1, 40, 3000), np.random.default_rng(1).integers(1, 40, 3000)], 1
).astype(np.int32)


def test_the_order_depends_on_seed_and_epoch_alone() -> None:
    for unit, batch in (("sentences", 16), ("tokens", 500)):
        orders = {(s, e): flat(list(Plan(LONG, batch, unit, seed=s).epoch(e))) for s in (1, 2) for e in (0, 1)}
        assert len({tuple(order) for order in orders.values()}) == 4
        assert flat(list(Plan(LONG, batch, unit, seed=1).epoch(0))) == orders[1, 0]


def test_batches_differ_between_epochs_and_are_not_sorted_by_length() -> None:
    first, second = ([set(micro) for update in Plan(LONG, 16).epoch(e) for micro in update.micro] for e in (0, 1))
    assert sum(batch in second for batch in first) < len(first) / 10
    targets = [LONG[list(batch), 1].mean() for batch in first]
    assert abs(np.corrcoef(targets, np.arange(len(targets)))[0, 1]) < 0.3


def test_bucketing_leaves_little_padding() -> None:
    alike = np.stack([LONG[:, 0], LONG[:, 0]], 1)
    assert Plan(alike, 32).padding() < 0.03
    assert Plan(alike, 1000, "tokens").padding() < 0.05
    assert Plan(LONG, 1).padding() == 0


def test_windows_visit_blocks_in_a_shuffled_order() -> None:
    found = list(windows(1000, seed=1, epoch=0, window=100, block=10))
    assert sorted(np.concatenate(found).tolist()) == list(range(1000))
    assert all(len({number // 10 for number in window.tolist()}) == 10 for window in found)
    assert [int(window.min()) for window in found] != sorted(int(window.min()) for window in found)


def test_the_hash_is_splitmix64() -> None:
    # the first outputs of the reference generator for seed 1234567
    reference = [6457827717110365317, 3203168211198807973]
    gamma = 0x9E3779B97F4A7C15
    assert [int(_splitmix(np.array([1234567 + n * gamma], np.uint64))[0]) for n in (0, 1)] == reference
    assert len(set(mixed(1, 0, 0, np.arange(10_000)).tolist())) == 10_000


def test_one_batch_of_all_pairs_has_the_order_of_many() -> None:
    """By target into strips, here one, then by source; equal pairs stay as they come."""
    draw = np.random.default_rng(1)
    for pairs in range(1, 9):
        lengths = draw.integers(1, 4, (pairs, 2)).astype(np.int32)
        order = sorted(range(pairs), key=lambda row: (lengths[row, 0], lengths[row, 1], row))
        (rows,) = length_batches(lengths, 8, "sentences")
        assert rows.tolist() == order


@pytest.mark.parametrize("unit", ["sentences", "tokens"])
@pytest.mark.parametrize("accumulate", [1, 2])
def test_updates_are_counted_as_they_come(unit: str, accumulate: int) -> None:
    lengths = np.random.default_rng(1).integers(1, 9, (50, 2)).astype(np.int32)
    for window in (7, 50, 64):
        plan = Plan(lengths, 20, unit, accumulate, window=window)
        assert plan.updates_per_epoch(3) == len(list(plan.epoch(3)))


def test_sampling_differs_by_epoch_and_not_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    def ids(plan: Plan, epoch: int) -> dict[int, tuple]:
        return {
            number: pair
            for update in plan.epoch(epoch)
            for micro, pairs in zip(update.micro, update.sampled, strict=True)
            for number, pair in zip(micro, pairs, strict=True)
        }

    sampler = drawn(LONG)
    one = ids(Plan(LONG, 16, sampler=sampler), 0)
    assert one == ids(Plan(LONG, 700, "tokens", 3, sampler=sampler), 0)
    assert one != ids(Plan(LONG, 16, sampler=sampler), 1)
    monkeypatch.setattr(module, "SAMPLED", 100)
    assert one == ids(Plan(LONG, 16, sampler=sampler), 0)


def test_skipping_does_not_sample_what_is_skipped() -> None:
    asked: list[int] = []

    def sampler(number: int, random: random.Random) -> tuple[list[int], list[int]]:
        asked.append(number)
        return [5], [5]

    plan = Plan(LONG, 10, sampler=sampler, window=100)
    next(plan.epoch(0, start=250))
    assert len(asked) == 100


@settings(deadline=None, max_examples=60)
@given(
    lengths=LENGTHS,
    batch=st.integers(1, 70),
    unit=st.sampled_from(["sentences", "tokens"]),
    window=st.sampled_from([5, 1000]),
)
def test_evaluation_covers_all_pairs_once(lengths: np.ndarray, batch: int, unit: str, window: int) -> None:
    batches = list(evaluation_batches(lengths, batch, unit, window))
    assert sorted(number for rows in batches for number in rows) == list(range(len(lengths)))
    for rows in batches:
        assert (
            len(rows) == 1
            or (len(rows) if unit == "sentences" else (lengths[list(rows)].max() + 1) * len(rows)) <= batch
        )


@pytest.mark.parametrize("settings", [{"batch": 0}, {"batch": 1, "accumulate": 0}, {"batch": 1, "batch_unit": "words"}])
def test_what_no_plan_can_be_made_of_is_refused(settings: dict) -> None:
    with pytest.raises(UserError):
        Plan(LONG, **settings)
    with pytest.raises(UserError, match="no pair"):
        Plan(LONG[:0], 1)


def test_a_plan_of_a_store_gives_ids_that_decode_to_its_texts(tmp_path: Path) -> None:
    pairs = [(f"the dog number {n}", f"der Hund Nummer {n}") for n in range(50)]
    (tmp_path / "pairs.tsv").write_text("".join(f"{src}\t{tgt}\n" for src, tgt in pairs))
    for sampling in (0.0, 0.4):
        tokenizers = train_tokenizers(TokenizerConfig(vocab_size=310, sampling=sampling), lambda: iter(pairs), 1)
        store = build_store(
            CorpusFiles("pairs", (tmp_path / "pairs.tsv",)), tokenizers, DataConfig(), tmp_path / "stores"
        )
        seen = []
        for update in plan_for(store, tokenizers, 200, "tokens", 2, seed=1).epoch(0):
            targets = 0
            for src, tgt, numbers in update.sides(store):
                assert [tokenizers.src.decode(ids) for ids in src] == [store.src_text(number) for number in numbers]
                assert [tokenizers.tgt.decode(ids) for ids in tgt] == [store.tgt_text(number) for number in numbers]
                targets += sum(len(ids) + 1 for ids in tgt)
                seen += numbers
            assert targets == update.num_targets
        assert sorted(seen) == list(range(50))
