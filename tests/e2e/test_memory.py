"""`itda generate` reads an endless input in bounded memory, be it endless in lines or in the length of one."""

import contextlib
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from program import PROGRAM, environment

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")
LIMIT = 1500  # MiB: no test lets a process grow beyond
GROWTH = 100  # MiB, once it is under way; what must not be held are several times as much


def resident(process: "subprocess.Popen[bytes]") -> float:
    """The most memory that a process has held, in MiB."""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")) / 1024


def feed(process: "subprocess.Popen[bytes]", pipe: IO[bytes], pieces: Iterator[bytes]) -> None:
    """Write until the reader has left; end it before it fills the machine."""
    try:
        for piece in pieces:
            pipe.write(piece)
            if resident(process) > LIMIT:
                process.kill()
        pipe.close()
    except (OSError, ValueError, StopIteration):
        pass


def generating(run: Path, pieces: Iterator[bytes]) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [*PROGRAM, "generate", str(run), "--beam", "1", "--batch", "128"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment(PYTHONUNBUFFERED="1"),
    )
    assert process.stdin
    threading.Thread(target=feed, args=(process, process.stdin, pieces), daemon=True).start()
    return process


def growth(process: "subprocess.Popen[bytes]", first: int, then: int) -> float:
    """How much memory comes on top while so many lines more are answered."""
    assert process.stdout
    try:
        before = 0.0
        for number in range(first + then):
            assert process.stdout.readline().endswith(b"\n")
            if number == first - 1:
                before = resident(process)
        return resident(process) - before
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        assert process.stdin
        with contextlib.suppress(OSError, ValueError):
            process.stdin.close()


def test_input_without_end(tiny_run: Path) -> None:
    """The output comes while the input goes on, and 10,000 lines more cost nothing."""

    def lines() -> Iterator[bytes]:
        while True:
            yield b"ab\n" * 500

    assert growth(generating(tiny_run, lines()), 2500, 10_000) < GROWTH


def test_lines_of_a_mebibyte(tiny_run: Path) -> None:
    """2,048 of them may not be held at once."""

    def lines() -> Iterator[bytes]:
        while True:
            yield b"abcdefgh" * (1 << 17) + b"\n"

    assert growth(generating(tiny_run, lines()), 2, 8) < GROWTH


def test_a_line_without_end(tiny_run: Path) -> None:
    """Of a line of 400 MiB its beginning is used, and what follows is read past."""

    def lines() -> Iterator[bytes]:
        yield b"ab\n" * 2048
        for _ in range(400):
            yield b"x" * (1 << 20)
        yield b"\nab\n"

    assert growth(generating(tiny_run, lines()), 2048, 2) < GROWTH
