"""Files and folders that are on the disk whole or not at all, whatever moment the process dies at.

The recipe is the usual one: write under a temporary name in the same folder, fsync, rename, fsync the folder.
Every call that changes a disk goes through `disk`, so that a test can make any one of them fail.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from itda.errors import DamagedFileError, MachineError, UserError

TEMPORARY = ".tmp-"  # being written, or being removed: never read, swept away by `recover`
REPLACED = ".old-"  # a whole folder that waits until its successor is in place
Migration = Callable[[dict[str, Any]], dict[str, Any]]  # turns what one format said into what the next one says
CHUNK = 1 << 26  # Windows refuses writes of 2 GiB and more


class Disk:
    """The calls of the operating system that change a disk, one method each."""

    def mkdir(self, path: Path) -> None:
        """Make a folder."""
        os.mkdir(path)

    def open(self, path: Path, flags: int) -> int:
        """Open a file (or a folder, to fsync it) and return its handle."""
        return os.open(path, flags | getattr(os, "O_BINARY", 0), 0o666)

    def write(self, handle: int, data: memoryview) -> int:
        """Write what the system takes at once; return how much that was."""
        return os.write(handle, data)

    def truncate(self, handle: int, length: int) -> None:
        """Cut a file."""
        os.ftruncate(handle, length)

    def fsync(self, handle: int) -> None:
        """Wait until the disk has it."""
        os.fsync(handle)

    def close(self, handle: int) -> None:
        """Close a handle."""
        os.close(handle)

    def rename(self, source: Path, target: Path) -> None:
        """Rename; a file that has the new name is replaced in the same moment."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file or a link."""
        os.unlink(path)

    def rmdir(self, path: Path) -> None:
        """Remove an empty folder."""
        os.rmdir(path)


disk = Disk()


@contextlib.contextmanager
def reporting(path: Path, undo: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Turn an error of the system into a `MachineError` of one line, after `undo` did what it still could."""
    try:
        yield
    except OSError as error:
        with contextlib.suppress(OSError):
            undo()
        if error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", -1)):
            remedy = "free some space"
        elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            remedy = "make the folder writable"
        else:
            remedy = "look after the disk"
        what = error.strerror or type(error).__name__
        raise MachineError(
            f"cannot write {path}: {what}; what was saved before is safe; {remedy} and try again"
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file so that its name holds the old content or the new, never less."""
    temporary = path.with_name(TEMPORARY + path.name)
    with reporting(path, lambda: disk.unlink(temporary)):
        _write_new(temporary, data)
        disk.rename(temporary, path)
        _fsync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write a value whole as JSON with sorted keys: equal values give equal bytes."""
    write_whole(path, json_bytes(value))


def json_bytes(value: Any) -> bytes:
    """Return the one JSON text that we write for a value."""
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "surrogatepass") + b"\n"


def write_folder(path: Path, parts: Iterable[tuple[str, bytes]]) -> None:
    """Write a folder of files whole; one that has this name is replaced, and stays until the new one is safe."""
    temporary, replaced = path.with_name(TEMPORARY + path.name), path.with_name(REPLACED + path.name)
    with reporting(path, lambda: recover(path.parent)):
        recover(path.parent)
        disk.mkdir(temporary)
        for name, data in parts:
            _write_new(temporary / name, data)
        _fsync_folder(temporary)
        if path.exists():
            disk.rename(path, replaced)
        disk.rename(temporary, path)
        _fsync_folder(path.parent)
        if replaced.exists():
            remove(replaced)


def make_folder(path: Path) -> None:
    """Make a folder and the folders above it where they are missing, and wait until the disk has them."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with reporting(path):
        disk.mkdir(path)
        _fsync_folder(path.parent)


def recover(folder: Path) -> None:
    """Bring a folder in order after a kill: sweep what is temporary, put back what has no successor."""
    for entry in sorted(folder.iterdir()):
        if entry.name.startswith(TEMPORARY):
            remove(entry)
        elif entry.name.startswith(REPLACED):
            successor = entry.with_name(entry.name.removeprefix(REPLACED))
            if successor.exists():
                remove(entry)
            else:
                disk.rename(entry, successor)


def remove_whole(paths: Iterable[Path]) -> None:
    """Remove files and folders so that a kill leaves each of them there or gone (or under a temporary name)."""
    for path in paths:
        temporary = path.with_name(TEMPORARY + path.name)
        with reporting(path):
            if os.path.lexists(temporary):
                remove(temporary)
            disk.rename(path, temporary)
            _fsync_folder(path.parent)
            remove(temporary)


def remove(path: Path) -> None:
    """Remove a file, a link (never what it points to) or a folder with all that it holds."""
    if path.is_symlink() or not path.is_dir():
        disk.unlink(path)
        return
    for entry in sorted(path.iterdir()):
        remove(entry)
    disk.rmdir(path)


class Appender:
    """A file that only grows, opened at a length that is known to be good; what lies behind it is cut off."""

    def __init__(self, path: Path, length: int) -> None:
        """Open, or make where `length` is 0; raise DamagedFileError where the file is shorter than it was."""
        self.path, self.length = path, length
        present = path.stat().st_size if path.exists() else 0
        if present < length:
            raise DamagedFileError(
                f"{path} has {present} bytes, but {length} were on record; "
                "copy the file again, or train anew with --overwrite"
            )
        with reporting(path):
            self._handle = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            if present > length:
                disk.truncate(self._handle, length)
            disk.fsync(self._handle)
            _fsync_folder(path.parent)

    def append(self, data: bytes) -> None:
        """Hand bytes to the system: they outlive this process, and after `sync` the machine too."""
        with reporting(self.path, lambda: disk.truncate(self._handle, self.length)):
            _write_all(self._handle, data)
        self.length += len(data)

    def sync(self) -> int:
        """Wait until the disk has all of it; return the length."""
        with reporting(self.path):
            disk.fsync(self._handle)
        return self.length

    def close(self) -> None:
        """Close the file."""
        with reporting(self.path):
            disk.close(self._handle)


def read(path: Path) -> bytes:
    """Read a file; raise UserError where there is none."""
    try:
        return path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise UserError(f"{path} is missing; copy the whole run folder, or train again") from error
    except OSError as error:
        raise MachineError(f"cannot read {path}: {error.strerror or error}") from error


def checksum(data: bytes) -> str:
    """Return the SHA-256 of some bytes in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def file_checksum(path: Path) -> str:
    """Return the SHA-256 of a file, read in pieces; an OSError is the caller's to put into words."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def migrate(body: dict[str, Any], path: Path, newest: int, migrations: Mapping[int, Migration]) -> dict[str, Any]:
    """Bring an older format up to the newest, one step at a time; raise UserError where it is newer than this itda."""
    while (number := body["format"]) != newest:
        if number > newest or number not in migrations:
            raise UserError(
                f"{path} has format {number}; this itda reads {min(migrations, default=newest)} to {newest}; "
                "install another version of itda"
            )
        body = migrations[number](body) | {"format": number + 1}
    return body


def _write_new(path: Path, data: bytes) -> None:
    handle = disk.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        _write_all(handle, data)
        disk.fsync(handle)
    finally:
        disk.close(handle)


def _write_all(handle: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[disk.write(handle, rest[:CHUNK]) :]


def _fsync_folder(folder: Path) -> None:
    """Make renames in a folder last; systems that cannot do this for folders order renames by themselves."""
    if os.name == "nt":
        return
    handle = disk.open(folder, os.O_RDONLY)
    try:
        disk.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        disk.close(handle)
