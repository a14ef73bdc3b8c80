"""The store: what is read back is what was written; built once, or not at all."""

import json
import os
import shutil
import time
from pathlib import Path

import numpy as np
import pytest

from itda.config import DataConfig, TokenizerConfig
from itda.data import store as module
from itda.data.corpus import CorpusFiles, read_pairs
from itda.data.store import Store, build_store
from itda.data.store_files import id_dtype, write_manifest
from itda.errors import DamagedFileError, MachineError, UserError
from itda.text.tokenizer import TokenizerPair, train_tokenizers

PAIRS = [
    ("A dog.", "Ein Hund."),
    ("cafe\u0301 ▁ <s>", "각"),
    ("two", "zwei\u2028drei"),
    ("four words are here", "x"),
    ("z", "q" * 9),
]


@pytest.fixture
def corpus(tmp_path: Path) -> CorpusFiles:
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{src}\t{tgt}\n" for src, tgt in PAIRS) + "\tblank\n", encoding="utf-8", newline="\n")
    return CorpusFiles("pairs", (path,), licence=("CC0",))


def tokenizers(corpus: CorpusFiles, **settings: object) -> TokenizerPair:
    config = TokenizerConfig(**{"vocab_size": 300, **settings})
    return train_tokenizers(config, lambda: ((pair.src, pair.tgt) for pair in read_pairs(corpus)), 1)


@pytest.mark.parametrize("kind", ["sentencepiece", "characters"])
def test_what_is_read_back_is_what_was_written(
    corpus: CorpusFiles, tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("itda.data.store_files.FLUSH_PAIRS", 2)
    pair = tokenizers(corpus, kind=kind)
    store = build_store(corpus, pair, DataConfig(), tmp_path / "stores")
    assert len(store) == len(PAIRS) == store.report.pairs
    for number, (src, tgt) in enumerate(PAIRS):
        assert store.src_text(number) == pair.src.normalize(src)
        assert store.tgt_text(number) == pair.tgt.normalize(tgt)
        assert store.src_ids(number).tolist() == pair.src.encode(src)
        assert store.tgt_ids(number).tolist() == pair.tgt.encode(tgt)
        assert store.lengths()[number].tolist() == [len(store.src_ids(number)), len(store.tgt_ids(number))]
        assert store.line(number) == number + 1
    store.release()
    assert store.encoded([4, 1]) == tuple(
        [store_ids(n).tolist() for n in (4, 1)] for store_ids in (store.src_ids, store.tgt_ids)
    )
    assert store.report.messages() == ["skipped, blank source: 1 (line 6)"]
    assert store.licence == ("CC0",)
    assert isinstance(store.lengths().base, np.ndarray)
    for outside in (-1, len(PAIRS)):
        with pytest.raises(IndexError):
            store.src_ids(outside)


def test_it_is_built_once_and_anew_when_anything_differs(
    corpus: CorpusFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = []
    write = module._write
    monkeypatch.setattr(module, "_write", lambda *arguments: built.append(1) or write(*arguments))
    pair = tokenizers(corpus)

    def build(config: DataConfig | None = None, **settings: bool) -> int:
        build_store(corpus, pair, config or DataConfig(), tmp_path / "stores", **settings)
        return len(built)

    assert [build(), build()] == [1, 1]
    assert build(DataConfig(swap=True)) == 2
    assert build(DataConfig(max_tgt_length=100)) == 3
    assert build(training=False) == 4
    pair = tokenizers(corpus, normalization="nfd")
    assert build() == 5
    corpus.paths[0].write_text("other\ttext\n", encoding="utf-8")
    assert build() == 6
    assert build() == 6


def test_swapped_sides(corpus: CorpusFiles, tmp_path: Path) -> None:
    store = build_store(corpus, tokenizers(corpus), DataConfig(swap=True), tmp_path / "stores")
    assert (store.src_text(0), store.tgt_text(0)) == ("Ein Hund.", "A dog.")


def test_pairs_over_the_limits_are_skipped_in_training_only(corpus: CorpusFiles, tmp_path: Path) -> None:
    pair = tokenizers(corpus, kind="characters")
    limits = DataConfig(max_src_length=18, max_tgt_length=9)
    store = build_store(corpus, pair, limits, tmp_path / "stores")
    assert store.report.messages() == [
        "skipped, source over 18 tokens: 1 (line 4)",
        "skipped, blank source: 1 (line 6)",
    ]
    assert len(store) == store.report.pairs == 4
    assert [store.line(number) for number in range(4)] == [1, 2, 3, 5]
    assert len(build_store(corpus, pair, limits, tmp_path / "stores", training=False)) == 5
    with pytest.raises(UserError, match=r"no pair within data.max_src_length = 1 and data.max_tgt_length = 1 tokens"):
        build_store(corpus, pair, DataConfig(max_src_length=1, max_tgt_length=1), tmp_path / "stores")


def test_a_build_that_fails_leaves_nothing(corpus: CorpusFiles, tmp_path: Path) -> None:
    pair = tokenizers(corpus)
    with corpus.paths[0].open("ab") as file:
        file.write(b"bad \xff\tx\n")
    with pytest.raises(UserError, match="line 7, byte"):
        build_store(corpus, pair, DataConfig(), tmp_path / "stores")
    assert list((tmp_path / "stores").iterdir()) == []


@pytest.mark.parametrize("call", ["os.rename", "os.fsync"])
def test_a_fault_of_the_disk_is_the_machines(
    corpus: CorpusFiles, tmp_path: Path, call: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    pair = tokenizers(corpus)
    with monkeypatch.context() as patch:
        patch.setattr(call, fail)
        with pytest.raises(MachineError, match="No space left"):
            build_store(corpus, pair, DataConfig(), tmp_path / "stores")
    assert list((tmp_path / "stores").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot write the store"):
        build_store(corpus, pair, DataConfig(), tmp_path / "file")


def test_a_half_built_or_damaged_store_is_never_used(corpus: CorpusFiles, tmp_path: Path) -> None:
    pair, folder = tokenizers(corpus), tmp_path / "stores"
    store = build_store(corpus, pair, DataConfig(), folder)
    whole = {path.name: path.read_bytes() for path in store.folder.iterdir()}
    for name, data in whole.items():
        for damaged in (
            None,
            data[:-2],
            data.replace(b'"pairs": 5', b'"pairs": 4') if name == "store.json" else data + b"x",
        ):
            if damaged is None:
                (store.folder / name).unlink()
            else:
                (store.folder / name).write_bytes(damaged)
            with pytest.raises(DamagedFileError):
                Store(store.folder)
            again = build_store(corpus, pair, DataConfig(), folder)
            assert {path.name: path.read_bytes() for path in again.folder.iterdir()} == whole


@pytest.mark.parametrize(
    "name", ["text.bin", "text_ends.bin", "ids.bin", "ids_ends.bin", "lengths.bin", "lines.bin", "store.json"]
)
def test_one_bit_that_flipped_is_noticed(corpus: CorpusFiles, tmp_path: Path, name: str) -> None:
    """Of the same size, so that only a checksum tells."""
    pair, folder = tokenizers(corpus), tmp_path / "stores"
    store = build_store(corpus, pair, DataConfig(), folder)
    assert not store.rebuilt
    file, names = store.folder / name, {path.name for path in store.folder.iterdir()}
    assert name in names
    assert len(names) == 7, "each file of a store is named here"
    whole = file.read_bytes()
    for place in (0, len(whole) // 2, len(whole) - 2):
        file.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        again = build_store(corpus, pair, DataConfig(), folder)
        assert file.read_bytes() == whole
        assert name in again.rebuilt
        assert not build_store(corpus, pair, DataConfig(), folder).rebuilt, "it is said once"


def test_a_store_of_before_there_were_checksums_is_built_anew(corpus: CorpusFiles, tmp_path: Path) -> None:
    pair, folder = tokenizers(corpus), tmp_path / "stores"
    store = build_store(corpus, pair, DataConfig(), folder)
    file = store.folder / "store.json"
    whole = file.read_bytes()
    content = json.loads(whole)["content"]
    del content["sha256"]
    write_manifest(store.folder, content)
    assert "has no checksums" in build_store(corpus, pair, DataConfig(), folder).rebuilt
    assert file.read_bytes() == whole


def test_a_damaged_store_that_cannot_be_removed_is_not_used(
    corpus: CorpusFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, folder = tokenizers(corpus), tmp_path / "stores"
    file = build_store(corpus, pair, DataConfig(), folder).folder / "ids.bin"
    file.write_bytes(bytes(len(file.read_bytes())))
    monkeypatch.setattr(shutil, "rmtree", lambda *_, **__: None)
    with pytest.raises(DamagedFileError, match=r"ids\.bin is not what itda wrote"):
        build_store(corpus, pair, DataConfig(), folder)


def test_what_a_killed_build_left_is_swept_away_but_not_a_running_one(corpus: CorpusFiles, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    for name, age in ((".building-dead-1", 7200), (".building-alive-2", 10)):
        (folder / name).mkdir(parents=True)
        (folder / name / "text.bin").write_bytes(b"x")
        for path in (folder / name / "text.bin", folder / name):
            os.utime(path, (time.time() - age, time.time() - age))
    store = build_store(corpus, tokenizers(corpus), DataConfig(), folder)
    assert sorted(path.name for path in folder.iterdir()) == [".building-alive-2", store.folder.name]


def test_two_processes_may_build_the_same_store(
    corpus: CorpusFiles, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair, folder = tokenizers(corpus), tmp_path / "stores"
    rename = os.rename

    def other_was_quicker(source: Path, target: Path) -> None:
        monkeypatch.setattr(os, "rename", rename)
        build_store(corpus, pair, DataConfig(), folder)
        rename(source, target)

    monkeypatch.setattr(os, "rename", other_was_quicker)
    assert len(build_store(corpus, pair, DataConfig(), folder)) == 5
    assert len(list(folder.iterdir())) == 1


def test_the_smallest_type_that_holds_a_vocabulary() -> None:
    for size in (1, 256, 257, 65536, 65537, 1 << 20):
        dtype = np.dtype(id_dtype(size))
        assert np.iinfo(dtype).max >= size - 1
        assert dtype.itemsize == 1 or np.iinfo(f"u{dtype.itemsize // 2}").max < size - 1
