"""The files of a store: how they are written, mapped and checked.

`text.bin` and `ids.bin` hold source, target, source, target, ...; `text_ends.bin` and `ids_ends.bin` say where each
of them ends, `lengths.bin` how many ids each has, `lines.bin` which line of the corpus a pair stands on. Where the
corpus is aligned, `links.bin` holds the links of each pair, (source token, target token), and `links_ends.bin` where
they end.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
from array import array
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from itda import durable
from itda.data.corpus import Finding, ReadReport
from itda.errors import DamagedFileError

FORMAT = 1
MANIFEST = "store.json"
FLUSH_PAIRS = 8192
_DONT_NEED = getattr(mmap, "MADV_DONTNEED", None)  # absent on Windows


def id_dtype(vocab_size: int) -> str:
    """Name the smallest type that holds every id of a vocabulary, low byte first."""
    kinds = (("|u1", 8), ("<u2", 16), ("<u4", 32), ("<u8", 64))
    return next(name for name, bits in kinds if vocab_size <= 1 << bits)


class Mapped:
    """A file as an array that the system reads when it is looked at."""

    def __init__(self, path: Path, dtype: str) -> None:
        with path.open("rb") as file:
            self._map = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.array: npt.NDArray[Any] = np.frombuffer(self._map, dtype=np.dtype(dtype))

    def release(self) -> None:
        """Give the memory of what was looked at back to the system."""
        if _DONT_NEED is not None:
            self._map.madvise(_DONT_NEED)


class Writer:
    """The growing files of a store; a few thousand pairs are held at a time."""

    def __init__(self, folder: Path, dtype: str, aligned: bool = False) -> None:
        self.pairs, self.links, self._folder, self._dtype, self._aligned = 0, 0, folder, dtype, aligned
        self._stack = ExitStack()
        names: tuple[str, ...] = ("text.bin", "text_ends.bin", "ids.bin", "ids_ends.bin", "lengths.bin", "lines.bin")
        names += ("links.bin", "links_ends.bin") if aligned else ()
        self._files = {name: self._stack.enter_context((folder / name).open("wb")) for name in names}
        self._hashes = {name: hashlib.sha256() for name in names}
        self._text_end = self._ids_end = 0
        self._clear()

    def _clear(self) -> None:
        self._text: list[bytes] = []
        self._ids, self._lines = array("Q"), array("q")
        self._text_lengths, self._ids_lengths = array("q"), array("q")
        self._links: list[bytes] = []
        self._links_ends = array("q")

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def add(
        self, line: int, sides: Iterable[tuple[str, list[int]]], links: npt.NDArray[np.int32] | None = None
    ) -> None:
        """Take a pair: the normalised text and the ids of its source and its target, and its links."""
        for text, ids in sides:
            data = text.encode("utf-8")
            self._text.append(data)
            self._text_lengths.append(len(data))
            self._ids.extend(ids)
            self._ids_lengths.append(len(ids))
        self._lines.append(line)
        self.pairs += 1
        if links is not None:
            self.links += len(links)
            self._links.append(links.astype("<i4").tobytes())
        self._links_ends.append(self.links)
        if len(self._lines) >= FLUSH_PAIRS or len(self._ids) > 1 << 22:
            self.flush()

    def flush(self) -> None:
        """Write what is held."""
        text_ends = np.cumsum(np.array(self._text_lengths, dtype="<i8")) + self._text_end
        ids_ends = np.cumsum(np.array(self._ids_lengths, dtype="<i8")) + self._ids_end
        self._write("text.bin", b"".join(self._text))
        self._write("text_ends.bin", text_ends.tobytes())
        self._write("ids.bin", np.array(self._ids).astype(self._dtype).tobytes())
        self._write("ids_ends.bin", ids_ends.tobytes())
        self._write("lengths.bin", np.array(self._ids_lengths, dtype="<i4").tobytes())
        self._write("lines.bin", np.array(self._lines, dtype="<i8").tobytes())
        if self._aligned:
            self._write("links.bin", b"".join(self._links))
            self._write("links_ends.bin", np.array(self._links_ends, dtype="<i8").tobytes())
        if self._lines:
            self._text_end, self._ids_end = int(text_ends[-1]), int(ids_ends[-1])
        self._clear()

    def _write(self, name: str, data: bytes) -> None:
        self._files[name].write(data)
        self._hashes[name].update(data)

    def finish(self) -> dict[str, Any]:
        """Write all, wait until the disk has it, and say how long each file is and which SHA-256 it has."""
        self.flush()
        for file in self._files.values():
            file.flush()
            os.fsync(file.fileno())
        sizes = {name: file.tell() for name, file in self._files.items()}
        return {"sizes": sizes, "sha256": {name: digest.hexdigest() for name, digest in self._hashes.items()}}


def read_manifest(folder: Path) -> dict[str, Any]:
    """Read a store's manifest and compare the sizes of its files; what does not fit is a `DamagedFileError`."""
    path = folder / MANIFEST
    try:
        read = json.loads(path.read_bytes())
        content: dict[str, Any] = read["content"]
        intact = read["checksum"] == durable.checksum(json.dumps(content, sort_keys=True, ensure_ascii=False).encode())
        if not intact or content["format"] != FORMAT:
            raise DamagedFileError(f"{path} was altered or has another format; remove {folder}, and it is built anew.")
        if content.get("sha256", {}).keys() != content["sizes"].keys():
            raise DamagedFileError(f"{path} has no checksums of its files; remove {folder}, and it is built anew.")
        for name, size in content["sizes"].items():
            found = (folder / name).stat().st_size
            if found != size:
                raise DamagedFileError(
                    f"{folder / name} has {found} bytes, not {size}; remove {folder}, and it is built anew."
                )
    except OSError as error:
        raise DamagedFileError(
            f"{error.filename} cannot be read ({error.strerror}); remove {folder}, and it is built anew."
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DamagedFileError(
            f"{path} is not what itda wrote ({error!r}); remove {folder}, and it is built anew."
        ) from None
    return content


def verify_files(folder: Path, hashes: dict[str, str]) -> None:
    """Hold each file, read in pieces, against its SHA-256; the first that differs is a `DamagedFileError`."""
    for name, stated in hashes.items():
        try:
            found = durable.file_checksum(folder / name)
        except OSError as error:
            raise DamagedFileError(
                f"{folder / name} cannot be read ({error.strerror}); remove {folder}, and it is built anew."
            ) from None
        if found != stated:
            raise DamagedFileError(
                f"{folder / name} is not what itda wrote (its checksum has changed); "
                f"remove {folder}, and it is built anew."
            )


def report_fields(report: ReadReport) -> dict[str, Any]:
    """Turn a report into what JSON can hold."""
    found = {name: {k: [f.count, f.lines] for k, f in getattr(report, name).items()} for name in ("skipped", "noticed")}
    return {"lines": report.lines, "pairs": report.pairs, **found}


def read_report(fields: dict[str, Any]) -> ReadReport:
    """Read what `report_fields` made."""
    skipped, noticed = (
        {k: Finding(count, lines) for k, (count, lines) in fields[n].items()} for n in ("skipped", "noticed")
    )
    return ReadReport(fields["lines"], fields["pairs"], skipped, noticed)


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write the manifest, the last file of a store, and wait until the disk has it."""
    body = json.dumps(content, sort_keys=True, ensure_ascii=False)
    whole = {"checksum": durable.checksum(body.encode()), "content": content}
    with (folder / MANIFEST).open("wb") as file:
        file.write((json.dumps(whole, ensure_ascii=False, indent=1) + "\n").encode())
        file.flush()
        os.fsync(file.fileno())
