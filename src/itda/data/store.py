"""The store: normalised text and ids of a corpus on the disk, built once, memory-mapped, reused by hash.

A store is built in one streaming pass, in a temporary folder that gets its name by one rename when all is there: a
half-built store is never seen. What its files hold stands in `store_files`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
import numpy.typing as npt

from itda.config import DataConfig
from itda.data.corpus import CorpusFiles, ReadReport, input_hashes, read_pairs
from itda.data.links import Alignments, LinkReader, Links
from itda.data.store_files import (
    FLUSH_PAIRS,
    FORMAT,
    MANIFEST,
    Mapped,
    Writer,
    id_dtype,
    read_manifest,
    read_report,
    report_fields,
    verify_files,
    write_manifest,
)
from itda.errors import DamagedFileError, MachineError, UserError
from itda.text.tokenizer import TokenizerPair

Progress = Callable[[int], None]  # called now and then with the number of pairs done
_ABANDONED_SECONDS = 3600.0  # a temporary folder that nobody wrote to for so long belongs to a build that died
_BUILDING = ".building-"


class Store:
    """The pairs of a corpus by number, from 0: ids, texts and lengths, as long as its folder lies there."""

    def __init__(self, folder: Path) -> None:
        """Open a finished store; a file that is missing or has another size is a `DamagedFileError`."""
        self.folder = folder
        manifest = read_manifest(folder)
        self.fingerprint: str = manifest["key"]
        self.inputs: dict[str, str] = manifest["inputs"]
        self.licence: tuple[str, ...] = tuple(manifest["licence"])
        self.report = read_report(manifest["report"])
        self.rebuilt = ""  # what was wrong with the store that lay here before
        self._hashes: dict[str, str] = manifest["sha256"]
        self._size: int = manifest["pairs"]
        self._text = Mapped(folder / "text.bin", "|u1")
        self._text_ends = Mapped(folder / "text_ends.bin", "<i8")
        self._ids = Mapped(folder / "ids.bin", manifest["dtype"])
        self._ids_ends = Mapped(folder / "ids_ends.bin", "<i8")
        self._lengths = Mapped(folder / "lengths.bin", "<i4")
        self._lines = Mapped(folder / "lines.bin", "<i8")
        self.aligned = "links.bin" in manifest["sizes"]
        names = (("links.bin", "<i4"), ("links_ends.bin", "<i8")) if self.aligned else ()
        self._links = [Mapped(folder / name, dtype) for name, dtype in names]

    def verify(self) -> None:
        """Read all files once and compare their checksums; an altered file is a `DamagedFileError`."""
        verify_files(self.folder, self._hashes)

    def __len__(self) -> int:
        """Count the pairs."""
        return self._size

    def src_ids(self, number: int) -> npt.NDArray[Any]:
        """Give the ids of a source, without bos and eos."""
        return self._slice(self._ids, self._ids_ends, 2 * number)

    def tgt_ids(self, number: int) -> npt.NDArray[Any]:
        """Give the ids of a target, without bos and eos."""
        return self._slice(self._ids, self._ids_ends, 2 * number + 1)

    def src_text(self, number: int) -> str:
        """Give a source as the tokenizer normalised it."""
        return self._slice(self._text, self._text_ends, 2 * number).tobytes().decode("utf-8")

    def tgt_text(self, number: int) -> str:
        """Give a target as the tokenizer normalised it."""
        return self._slice(self._text, self._text_ends, 2 * number + 1).tobytes().decode("utf-8")

    def line(self, number: int) -> int:
        """Give the line of the corpus, from 1, that a pair stands on."""
        return int(self._lines.array[number])

    def lengths(self) -> npt.NDArray[np.int32]:
        """Give (pairs, 2) numbers of source and target ids, bos and eos not counted; memory-mapped."""
        return self._lengths.array.reshape(-1, 2)

    def links(self, number: int) -> Links:
        """Give the links of a pair, (source token, target token), where the corpus is aligned."""
        links, ends = (mapped.array for mapped in self._links)
        start = int(ends[number - 1]) if number else 0
        return links.reshape(-1, 2)[start : int(ends[number])]

    def encoded(self, numbers: Iterable[int]) -> tuple[list[list[int]], list[list[int]]]:
        """Give sources and targets of some pairs as lists of ids: what `token_batch` takes."""
        chosen = list(numbers)
        return [self.src_ids(n).tolist() for n in chosen], [self.tgt_ids(n).tolist() for n in chosen]

    def release(self) -> None:
        """Give memory back to the system; arrays of this store stay valid and are read again when looked at."""
        parts = (self._text, self._text_ends, self._ids, self._ids_ends, self._lengths, self._lines, *self._links)
        for mapped in parts:
            mapped.release()

    def _slice(self, mapped: Mapped, ends: Mapped, part: int) -> npt.NDArray[Any]:
        if not 0 <= part < 2 * self._size:
            raise IndexError(f"pair {part // 2} of {self._size}")
        start = int(ends.array[part - 1]) if part else 0
        return mapped.array[start : int(ends.array[part])]


def build_store(
    files: CorpusFiles,
    tokenizers: TokenizerPair,
    config: DataConfig,
    folder: Path,
    progress: Progress | None = None,
    *,
    training: bool = True,
    alignments: Alignments | None = None,
) -> Store:
    """Open the store of a corpus under `folder`, building it first unless one with the same hash lies there.

    For training, pairs over max_src_length or max_tgt_length are skipped and counted; otherwise all are kept. With
    `alignments`, each pair keeps its links.
    A store that lies there is read once and held against its checksums; where they differ it is built anew, and its
    `rebuilt` says why. Raises UserError for bad data and MachineError where the folder cannot be written; then
    nothing is left behind.
    """
    inputs = input_hashes(files)
    limits = (config.max_src_length, config.max_tgt_length) if training else None
    asked: list[Any] = [FORMAT, list(inputs.values()), files.reading, tokenizers.fingerprint(), config.swap, limits]
    if alignments:
        hashes = {f"{name} (alignments)": found for name, found in input_hashes(alignments.files).items()}
        inputs, asked = inputs | hashes, [*asked, list(hashes.values()), alignments.files.kind, alignments.unit]
    key = hashlib.sha256(json.dumps(asked).encode()).hexdigest()
    final = folder / key[:20]
    damage = ""
    if final.exists():
        try:
            store = Store(final)
            store.verify()
            return store
        except DamagedFileError as error:
            damage = str(error).partition(";")[0]
            shutil.rmtree(final, ignore_errors=True)  # it is only a cache of the corpus
    building = folder / f"{_BUILDING}{key[:20]}-{uuid4().hex[:8]}"
    try:
        building.mkdir(parents=True)
        _sweep(folder)
        links = LinkReader(alignments, tokenizers) if alignments else None
        report = _write(files, tokenizers, config, limits, building, progress, links)
        content = {"format": FORMAT, "key": key, "inputs": inputs, "licence": list(files.licence)}
        write_manifest(building, content | report)
        _rename(building, final)
    except OSError as error:
        raise MachineError(
            f"cannot write the store in {folder}: {error.strerror or error}; free some space, or choose another folder."
        ) from None
    finally:
        shutil.rmtree(building, ignore_errors=True)
    store = Store(final)
    if damage:
        store.verify()  # had the damaged one been kept from going, it would lie here still
        store.rebuilt = damage
    return store


def _rename(building: Path, final: Path) -> None:
    try:
        os.rename(building, final)
    except OSError:
        if not (final / MANIFEST).is_file():  # else another process built the same store at the same time
            raise


def _sweep(folder: Path) -> None:
    """Remove what builds that were killed left behind."""
    for path in folder.glob(_BUILDING + "*"):
        times = [entry.stat().st_mtime for entry in (path, *path.glob("*"))]
        if time.time() - max(times) > _ABANDONED_SECONDS:
            shutil.rmtree(path, ignore_errors=True)


def _write(
    files: CorpusFiles,
    tokenizers: TokenizerPair,
    config: DataConfig,
    limits: tuple[int, int] | None,
    folder: Path,
    progress: Progress | None,
    links: LinkReader | None,
) -> dict[str, Any]:
    report, src, tgt = ReadReport(), tokenizers.src, tokenizers.tgt
    dtype = id_dtype(max(src.vocab_size, tgt.vocab_size))
    with Writer(folder, dtype, links is not None) as writer:
        for pair in read_pairs(files, swap=config.swap, report=report):
            try:
                texts = src.normalize(pair.src), tgt.normalize(pair.tgt)
                ids = src.encode(texts[0]), tgt.encode(texts[1])
            except UserError as error:  # a text that is not annotated as the recipe says
                raise UserError(f"{pair.place(files)}: {error}") from None
            if limits and (reason := _too_long(ids, limits)):
                report.pairs -= 1
                report.skip(reason, pair.number)
                continue
            found = links.links(pair, ids) if links else None
            if links and found is None:
                report.notice("links left out, since normalisation changes what they count", pair.number)
            writer.add(pair.number, zip(texts, ids, strict=True), found)
            if progress and writer.pairs % FLUSH_PAIRS == 0:
                progress(writer.pairs)
        if not writer.pairs:
            raise UserError(
                f"{files} has no pair within data.max_src_length = {config.max_src_length} and data.max_tgt_length = "
                f"{config.max_tgt_length} tokens ({'; '.join(report.messages())}); raise these limits."
            )
        if links:
            links.finish(report.lines)
            if not writer.links:
                raise UserError(
                    f"{links.alignments.files} has no link for any pair of {files}; give some, or none at all."
                )
        written = writer.finish()
    if progress:
        progress(writer.pairs)
    return {"pairs": writer.pairs, "dtype": dtype, "report": report_fields(report)} | written


def _too_long(ids: tuple[list[int], list[int]], limits: tuple[int, int]) -> str:
    for side, found, limit in zip(("source", "target"), ids, limits, strict=True):
        if len(found) > limit:
            return f"{side} over {limit} tokens"
    return ""
