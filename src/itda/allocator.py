"""The C library's allocator, told to keep what is freed.

glibc gives large blocks back to the system at once, and the system hands out each page of the next one anew, zeroed:
a search that makes the same tables at each step spent a fifth of its time on that (docs/design/0015). Where the
system offers large pages to those who ask, a part of the heap asks: each page is handed out once, and a worker's heap
is thousands of small ones.
"""

from __future__ import annotations

import ctypes
import functools
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # of malloc.h
LARGEST = 256 << 20  # bytes: a block that is larger comes from the system and goes back to it
KEPT = 1 << 30  # bytes that may lie idle
MADV_HUGEPAGE = 14  # of sys/mman.h
LARGE_PAGE = 2 << 20  # bytes
BLOCKS, BLOCK = 4, 128 << 20  # of heap that asks for large pages; memory that nobody touches is not taken


@functools.cache
def keep_freed_memory() -> bool:
    """Let this process use again what it has freed, rather than give it back; False where there is no such choice."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return False
    kept = bool(mallopt(M_MMAP_THRESHOLD, LARGEST) and mallopt(M_TRIM_THRESHOLD, KEPT))
    if kept:
        _ask_for_large_pages(ctypes.CDLL(None))
    return kept


def _ask_for_large_pages(libc: ctypes.CDLL) -> None:
    """Let the heap grow by some blocks, ask for large pages there, and free them: what comes next lies there.

    Where the system knows no large pages, or the heap may not grow, all stays as it is.
    """
    libc.malloc.argtypes, libc.malloc.restype = [ctypes.c_size_t], ctypes.c_void_p
    libc.free.argtypes, libc.free.restype = [ctypes.c_void_p], None
    libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    blocks = [libc.malloc(BLOCK) for _ in range(BLOCKS)]
    for block in filter(None, blocks):
        start = -(-block // LARGE_PAGE) * LARGE_PAGE
        libc.madvise(start, block + BLOCK - start, MADV_HUGEPAGE)
    for block in blocks:
        libc.free(block)
