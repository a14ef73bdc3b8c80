"""The C library's allocator, told to keep what is freed.

glibc gives large blocks back to the system at once, and the system hands out each page of the next one anew, zeroed:
a search that makes the same tables at each step spent a fifth of its time on that (docs/design/0015).
"""

from __future__ import annotations

import ctypes
import functools
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST = 256 << 20  # bytes: a block that is larger comes from the system and goes back to it
KEPT = 1 << 30  # bytes that may lie idle


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process use again what it has freed, rather than give it back; False where there is no such choice."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
