"""Lines of text files: plain or gzip, a path or standard input, UTF-8 or a clear error, in bounded memory.

A line ends at \\n and nowhere else; one \\r before it belongs to the line end. U+2028, U+0085, form feed and NUL are
characters like any other.
"""

from __future__ import annotations

import gzip
import io
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from itda.errors import MachineError, UserError

LONGEST_LINE = 1 << 20  # bytes; of a longer line only so much is kept, so that one line cannot fill the memory
STDIN = "standard input"
_GZIP_MAGIC = b"\x1f\x8b"
_OTHER_MARKS = {
    b"\xff\xfe\x00\x00": "UTF-32",
    b"\x00\x00\xfe\xff": "UTF-32",
    b"\xff\xfe": "UTF-16",
    b"\xfe\xff": "UTF-16",
}


@dataclass(frozen=True)
class Line:
    """One line of a file, counted from 1, without its end; `cut` says that LONGEST_LINE bytes were kept of more."""

    number: int
    text: str
    cut: bool = False


def read_lines(source: Path | None) -> Iterator[Line]:
    """Stream the lines of a file, or of standard input where `source` is None; the last may lack its \\n."""
    name = str(source) if source else STDIN
    with open_bytes(source) as file, _reading(name):
        yield from _decoded(file, name)


@contextmanager
def open_bytes(source: Path | None) -> Iterator[io.BufferedIOBase]:
    """Open a file or standard input for reading; gzip is undone, by its content, whatever the name."""
    if source is None:
        if sys.stdin is None:  # `<&-`
            raise UserError("standard input is closed; name a file, or feed it: itda ... < FILE")
        yield _ungzip(cast("io.BufferedIOBase", sys.stdin.buffer), STDIN)
        return
    try:
        file = source.open("rb")
    except OSError as error:
        raise UserError(f"{source} cannot be opened ({error.strerror}); name a file that can be read.") from None
    with file:
        yield _ungzip(file, str(source))


def _ungzip(file: io.BufferedIOBase, name: str) -> io.BufferedIOBase:
    start = file.peek(4)[:4] if isinstance(file, io.BufferedReader) else b""
    if start.startswith(_GZIP_MAGIC):
        return gzip.GzipFile(fileobj=file, mode="rb")
    if name.endswith(".gz") and start:
        raise UserError(
            f"{name} is named .gz, but is no gzip file (it starts with {start[:2]!r}); rename it, or compress it."
        )
    return file


@contextmanager
def _reading(name: str) -> Iterator[None]:
    """Turn what gzip and the system say into errors that name the file."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(
            f"{name} is a damaged or truncated gzip file ({error}); none of it is used; fetch it again."
        ) from None
    except OSError as error:
        raise MachineError(f"{name} cannot be read to its end ({error.strerror or error}).") from None


def _decoded(file: io.BufferedIOBase, name: str) -> Iterator[Line]:
    number, offset = 0, 0
    while True:
        raw = file.readline(LONGEST_LINE)
        if not raw:
            return
        number, size, cut = number + 1, len(raw), False
        if number == 1:
            _refuse_other_encodings(raw[:512], name)
        while not raw.endswith(b"\n") and size >= LONGEST_LINE:
            more = file.readline(LONGEST_LINE)
            size, cut = size + len(more), cut or more not in (b"", b"\n", b"\r\n")
            if len(more) < LONGEST_LINE or more.endswith(b"\n"):
                raw = raw if cut else raw + more
                break
        yield Line(number, _decode(raw, name, number, offset, cut), cut)
        offset += size


def _decode(raw: bytes, name: str, number: int, offset: int, cut: bool) -> str:
    if cut:  # maybe inside a character, whose first bytes go too
        raw = raw[: _last_boundary(raw)]
    elif raw.endswith(b"\n"):
        raw = raw[:-2] if raw.endswith(b"\r\n") else raw[:-1]
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        middle = error.reason == "unexpected end of data"
        what = (
            "the line ends in the middle of a character" if middle else f"0x{raw[error.start]:02x} cannot stand there"
        )
        raise UserError(
            f"{name}, line {number}, byte {offset + error.start} (from 0) is not UTF-8: {what}; convert the file to "
            "UTF-8 (for example from cp949: iconv -f cp949 -t utf-8)."
        ) from None
    return text.removeprefix("\ufeff") if number == 1 else text


def _last_boundary(raw: bytes) -> int:
    """Find where the last character begins that may be incomplete."""
    for back in range(1, min(4, len(raw)) + 1):
        if raw[-back] & 0xC0 != 0x80:
            return len(raw) - back if raw[-back] >= 0x80 else len(raw)
    return len(raw)


def _refuse_other_encodings(start: bytes, name: str) -> None:
    encoding = next((encoding for mark, encoding in _OTHER_MARKS.items() if start.startswith(mark)), "")
    if not encoding and len(start) >= 8 and start.count(0) * 3 >= len(start):
        encoding = "UTF-16 or UTF-32 without a mark"
    if not encoding:
        return
    raise UserError(
        f"{name}, line 1, byte 0 is not UTF-8: it looks like {encoding}; convert the file to UTF-8 "
        "(iconv -f utf-16 -t utf-8)."
    )
