"""Workers that share out work on a CPU, one a core: each computes with one thread, and no core waits for another.

They are threads: torch lets go of Python's lock while it computes, weights are there once, and an error or Ctrl-C in
one is at hand in the other.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

Work = TypeVar("Work")
Answer = TypeVar("Answer")
Stopped = Callable[[], bool]
"""Says whether the work is no longer wanted; who works long asks now and then."""


def share_out(
    work: Callable[[Work, Stopped], Answer], parts: Sequence[Work], workers: int
) -> Iterator[tuple[Work, Answer]]:
    """Do all parts, and give each with its answer, in the order of the parts.

    The first error, of a worker or of the caller, ends them all and is raised as it is.
    """
    if workers <= 1 or len(parts) <= 1:
        for part in parts:
            yield part, work(part, lambda: False)
        return
    stop, before = threading.Event(), torch.get_num_threads()
    pool = ThreadPoolExecutor(workers, "itda", initializer=torch.set_num_threads, initargs=(1,))
    try:
        answers: list[Future[Answer]] = [pool.submit(work, part, stop.is_set) for part in parts]
        for part, answer in zip(parts, answers, strict=True):
            yield part, answer.result()
    finally:
        stop.set()
        pool.shutdown(wait=True, cancel_futures=True)
        torch.set_num_threads(before)
