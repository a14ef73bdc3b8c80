"""A lock on a folder, held by one process; the system releases it when that process dies in whatever way."""

from __future__ import annotations

import errno
import os
import sys
from pathlib import Path

from itda import durable
from itda.errors import UserError

NAME = ".lock"  # an empty file; it stays, because removing it would race with the next process

_held: set[int] = set()


class Lock:
    """The right to write in a folder."""

    def __init__(self, folder: Path) -> None:
        """Take the lock; raise UserError where another process (or another part of this one) has it."""
        with durable.reporting(folder):
            handle = durable.disk.open(folder / NAME, os.O_RDWR | os.O_CREAT)
        try:
            _take(handle)
        except OSError as error:
            # A network disk may know no locks: training there is the owner's risk, refusing would help nobody.
            if error.errno not in (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK):
                os.close(handle)
                raise UserError(
                    f"another process is training in {folder}; wait for it, end it, or name another folder with --run"
                ) from None
        self._handle: int | None = handle
        _held.add(handle)

    @property
    def held(self) -> bool:
        """Whether the lock is still ours."""
        return self._handle is not None

    def release(self) -> None:
        """Give the lock back; a second call does nothing."""
        if self._handle is not None:
            _held.discard(self._handle)
            os.close(self._handle)
            self._handle = None

    def __del__(self) -> None:
        """Give the lock back with the last reference, so that a notebook need not restart."""
        if getattr(self, "_handle", None) is not None:
            self.release()


if sys.platform == "win32":
    import msvcrt

    def _take(handle: int) -> None:
        msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
else:
    import fcntl

    def _take(handle: int) -> None:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def _forget() -> None:
        """Close the locks that a forked worker inherits, or an orphan would hold them after its parent was killed."""
        while _held:
            os.close(_held.pop())

    os.register_at_fork(after_in_child=_forget)
