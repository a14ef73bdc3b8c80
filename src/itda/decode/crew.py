"""Workers that share out work on a CPU, one a core: each computes with one thread, and no core waits for another.

They are processes, forked when there is enough to share, so that they have the model without a copy. Threads would
share Python's lock, which cost up to a third of the speed where steps are small (docs/design/0015).
"""

from __future__ import annotations

import multiprocessing
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any, Generic, TypeVar, cast

import torch

from itda.errors import ItdaError, UserError

Part = TypeVar("Part")
Answer = TypeVar("Answer")
PATIENCE = 5.0  # seconds that a worker has to end by itself


class Crew(Generic[Part, Answer]):
    """Does parts of one work; a context manager, because its workers must end when the work does.

    Results do not depend on the number of workers, nor on who is done first. The first error, be it a worker's or the
    caller's (Ctrl-C too), ends them all; a worker's is raised here as it was there.
    """

    def __init__(self, work: Callable[[Part], Answer], workers: int) -> None:
        self.work, self.workers = work, workers
        self._lines: list[Connection] = []
        self._processes: list[Any] = []

    def __enter__(self) -> Crew[Part, Answer]:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_error: object) -> None:
        """End the workers: at once after an error, and when they have heard that nothing more comes otherwise."""
        for line in self._lines:
            line.close()  # who waits for the next part sees the end
        for process in self._processes:
            if kind is None:
                process.join(PATIENCE)
            if process.is_alive():
                process.terminate()
            process.join()
        self._lines, self._processes = [], []

    def do(self, parts: Sequence[Part]) -> Iterator[tuple[int, Answer]]:
        """Do all parts, and give the number of each with its answer, as they are done."""
        if self.workers == 1 or len(parts) <= 1:
            for number, part in enumerate(parts):
                yield number, self.work(part)
            return
        if not self._processes:
            self._hire()
        ahead = iter(range(len(parts)))
        busy: dict[Connection, int] = {}
        for line in self._lines:
            self._hand_out(line, parts, ahead, busy)
        while busy:
            for line in cast("list[Connection]", wait(list(busy))):
                number, answer = busy.pop(line), _receive(line)
                self._hand_out(line, parts, ahead, busy)
                yield number, answer

    def _hand_out(
        self, line: Connection, parts: Sequence[Part], ahead: Iterator[int], busy: dict[Connection, int]
    ) -> None:
        """Give a worker the next part, if there is one."""
        number = next(ahead, None)
        if number is not None:
            try:
                line.send(parts[number])
            except BrokenPipeError:
                raise _gone() from None
            busy[line] = number

    def _hire(self) -> None:
        """Fork the workers."""
        context = multiprocessing.get_context("fork")
        for _ in range(self.workers):
            mine, theirs = context.Pipe()
            # A worker must hold no end of another's line, or it would not see that nobody is at the other end.
            process = context.Process(target=_labour, args=(self.work, theirs, [*self._lines, mine]), daemon=True)
            with warnings.catch_warnings():
                # Python warns of forks beside threads; torch's are not used in a worker, and there are no others.
                warnings.simplefilter("ignore", DeprecationWarning)
                process.start()
            theirs.close()
            self._lines.append(mine)
            self._processes.append(process)


def count_workers(wanted: int | None, device: torch.device) -> int:
    """How many workers there may be: as many as torch has threads, where this process can be forked.

    Raises UserError where more than one is wanted and there can be one only.
    """
    reason = ""
    if device.type != "cpu":
        reason = f"the device is {device.type}, and workers share a CPU"
    elif not sys.platform.startswith("linux"):
        reason = "this system is not Linux"
    elif multiprocessing.current_process().daemon:
        reason = "this process is a worker itself"
    if reason and wanted is not None and wanted > 1:
        raise UserError(f"workers is {wanted}, but {reason}; leave workers out")
    if wanted is not None:
        return wanted
    # What other threads are about to do would stand still for ever in a fork, so nobody is hired unasked.
    return 1 if reason or threading.active_count() > 1 else torch.get_num_threads()


def _labour(work: Callable[[Any], Any], line: Connection, others: Sequence[Connection]) -> None:
    """What a worker does: part after part, until nobody is at the other end."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for who hired it
    for other in others:
        other.close()
    torch.set_num_threads(1)
    try:
        while True:
            part = line.recv()
            try:
                answer = work(part), None
            except Exception as error:
                line.send((None, _sendable(error)))
            else:
                line.send(answer)
    except (EOFError, OSError):
        return


def _sendable(error: Exception) -> Exception:
    """Our own errors, whose word is all that they hold; of any other its text."""
    return error if isinstance(error, ItdaError) else ItdaError(f"{type(error).__name__}: {error}")


def _receive(line: Connection) -> Any:
    try:
        answer, error = line.recv()
    except (EOFError, ConnectionResetError):
        raise _gone() from None
    if error is not None:
        raise error
    return answer


def _gone() -> ItdaError:
    return ItdaError("a worker ended before its work was done; was the memory too small? ask for fewer workers")
