"""Files to pairs: the one reader of parallel text.

The two sides are kept or skipped together, and every skip is counted with its line.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from itda import durable
from itda.data.lines import LONGEST_LINE, STDIN, Line, open_bytes, read_lines
from itda.errors import UserError
from itda.text.tags import tag

__all__ = [
    "CorpusFiles",
    "Finding",
    "Line",
    "Pair",
    "ReadReport",
    "input_hashes",
    "keep_stdin",
    "read_lines",
    "read_pairs",
]

EACH = "*"  # the tag of a corpus whose lines name their own target language
NAMED_LINES = 10  # of each kind of finding, so many lines are named
_LINES_BEFORE_DOUBT = 1000


@dataclass(frozen=True)
class CorpusFiles:
    """Where pairs come from: one TSV file, two parallel files, standard input (no path), or a generator."""

    name: str
    paths: tuple[Path, ...] = ()
    generator: str = ""
    split: str = "train"
    seed: int = 1
    pairs: int = 0
    licence: tuple[str, ...] = ()
    tag: str = ""  # the target language of all its lines; *: of each, in a third column
    turned: bool = False  # the second column is the source
    parts: tuple[CorpusFiles, ...] = ()  # several corpora, read one after the other

    @property
    def kind(self) -> str:
        """Say tsv, parallel, stdin, generated or several."""
        if self.parts:
            return "several"
        if self.generator:
            return "generated"
        return ("stdin", "tsv", "parallel")[len(self.paths)]

    @property
    def reading(self) -> str:
        """Say how the files are read: what, with their bytes, decides the pairs."""
        if self.parts:
            return " + ".join(f"{part.reading} {input_hashes(part)}" for part in self.parts)
        return (f"{tag(self.tag)} " if self.tag else "") + "swap:" * self.turned + self.kind

    def __str__(self) -> str:
        """Name the files as a message does."""
        if self.parts:
            return " + ".join(map(str, self.parts))
        return " and ".join(map(str, self.paths)) or (self.name if self.generator else STDIN)


@dataclass(frozen=True)
class Pair:
    """A source and its target; `number` is the line that both stand on, from 1.

    Of several corpora, `part` is the one that they stand in; `language` is that of a tagged target, and with it the
    source begins with its tag.
    """

    number: int
    src: str
    tgt: str
    language: str = ""
    part: str = ""

    def place(self, files: CorpusFiles) -> str:
        """Say where the pair stands, as a message does."""
        return f"{self.part or files}, line {self.number}"


@dataclass
class Finding:
    """How often something happened, and the first lines where it did."""

    count: int = 0
    lines: list[int] = field(default_factory=list)

    def add(self, line: int) -> None:
        """Count one more."""
        self.count += 1
        if len(self.lines) < NAMED_LINES:
            self.lines.append(line)

    def __str__(self) -> str:
        """Say how many, and where."""
        more = ", ..." if self.count > len(self.lines) else ""
        return f"{self.count} (line{'s' if self.count > 1 else ''} {', '.join(map(str, self.lines))}{more})"


@dataclass
class ReadReport:
    """What was read: lines, pairs that go on, pairs skipped (by reason), and what else was noticed."""

    lines: int = 0
    pairs: int = 0
    skipped: dict[str, Finding] = field(default_factory=dict)
    noticed: dict[str, Finding] = field(default_factory=dict)

    def skip(self, reason: str, line: int) -> None:
        """Count a line whose pair does not go on."""
        self.skipped.setdefault(reason, Finding()).add(line)

    def notice(self, what: str, line: int) -> None:
        """Count a line whose pair goes on, but not all of it."""
        self.noticed.setdefault(what, Finding()).add(line)

    def messages(self) -> list[str]:
        """Say each finding in one line."""
        skipped = [f"skipped, {reason}: {finding}" for reason, finding in self.skipped.items()]
        return skipped + [f"{what}: {finding}" for what, finding in self.noticed.items()]


def read_pairs(files: CorpusFiles, *, swap: bool = False, report: ReadReport | None = None) -> Iterator[Pair]:
    """Stream the pairs of a corpus, keeping count in `report`.

    Skipped and counted are a blank side, a line without a tab, and a line over LONGEST_LINE bytes; columns after the
    second are ignored and counted. Raises UserError for unreadable text, for unequal numbers of lines, where most
    lines have no tab, and where no pair is left.
    """
    report = ReadReport() if report is None else report
    if files.parts:
        yield from _several(files, swap, report)
        return
    used, turned = 0, swap != files.turned
    sides = {"tsv": _tsv, "stdin": _tsv, "parallel": _parallel, "generated": _generated}[files.kind](files, report)
    for pair in sides:
        blank = "source" * (not pair.src.strip()) or "target" * (not pair.tgt.strip())
        if blank:
            report.skip("blank " + blank if pair.src.strip() or pair.tgt.strip() else "both sides blank", pair.number)
            continue
        used, report.pairs = used + 1, report.pairs + 1
        pair = replace(pair, src=pair.tgt, tgt=pair.src) if turned else pair
        language = pair.language or files.tag
        yield replace(pair, src=f"{tag(language)} {pair.src}", language=language) if language else pair
    if not used:
        found = "; ".join(report.messages()) or "it is empty"
        raise UserError(
            f"{files} has no pair of source and target: {found}; give at least one line 'source<TAB>target'."
        )


def _several(files: CorpusFiles, swap: bool, report: ReadReport) -> Iterator[Pair]:
    for part in files.parts:
        own = ReadReport()
        for pair in read_pairs(part, swap=swap, report=own):
            yield replace(pair, part=pair.part or str(part))
        report.lines, report.pairs = report.lines + own.lines, report.pairs + own.pairs
        for all_found, found in ((report.skipped, own.skipped), (report.noticed, own.noticed)):
            all_found |= {f"{part.name}: {what}": finding for what, finding in found.items()}


def _tsv(files: CorpusFiles, report: ReadReport) -> Iterator[Pair]:
    untabbed = blank = 0
    for line in read_lines(files.paths[0] if files.paths else None):
        report.lines += 1
        src, tab, rest = line.text.partition("\t")
        if line.cut:
            report.skip(_OVERLONG, line.number)
        elif tab:
            tgt, more, third = rest.partition("\t")
            language = _third_column(files, line.number, third) if files.tag == EACH else ""
            if more and not language:
                report.notice("columns after the second ignored", line.number)
            yield Pair(line.number, src, tgt, language)
        elif not src.strip():
            blank += 1
            yield Pair(line.number, "", "")
        else:
            untabbed += 1
            report.skip("no tab", line.number)
        if report.lines == _LINES_BEFORE_DOUBT:
            _refuse_untabbed(files, untabbed, report.lines - blank)
    _refuse_untabbed(files, untabbed, report.lines - blank)


def _third_column(files: CorpusFiles, number: int, third: str) -> str:
    language = third.partition("\t")[0].strip()
    if not language or any(char.isspace() or char in "<>" for char in language):
        raise UserError(
            f"{files}, line {number}: its third column is '{language[:60]}', and for <2{EACH}> it must be the target "
            "language of the line, such as de."
        )
    return language


_OVERLONG = f"longer than {LONGEST_LINE} bytes"


def _refuse_untabbed(files: CorpusFiles, untabbed: int, lines: int) -> None:
    if untabbed * 2 > lines:
        raise UserError(
            f"{files} has no tab in {untabbed} of {lines} lines; each line must be 'source<TAB>target'; for two "
            "parallel files write both names with a comma between them."
        )


def _parallel(files: CorpusFiles, report: ReadReport) -> Iterator[Pair]:
    first, second = (read_lines(path) for path in files.paths)
    while True:
        src, tgt = next(first, None), next(second, None)
        if src is None or tgt is None:
            break
        report.lines += 1
        if src.cut or tgt.cut:
            report.skip(_OVERLONG, src.number)
        else:
            yield Pair(src.number, src.text, tgt.text)
    counts = [report.lines + (end is not None) + sum(1 for _ in rest) for end, rest in ((src, first), (tgt, second))]
    if counts[0] != counts[1]:
        raise UserError(
            f"{files.paths[0]} has {counts[0]} lines and {files.paths[1]} has {counts[1]}; in parallel files each "
            "line of one translates that line of the other; mend them; nothing is trained on them."
        )


def _generated(files: CorpusFiles, report: ReadReport) -> Iterator[Pair]:
    from itda.data.synthetic import make  # only generated corpora need it

    for number, example in enumerate(make(files.generator, seed=files.seed, pairs=files.pairs, split=files.split), 1):
        report.lines += 1
        yield Pair(number, example.src, example.tgt)


def input_hashes(files: CorpusFiles) -> dict[str, str]:
    """Compute the SHA-256 of each input file as it lies on the disk; of a generated corpus, of its pairs."""
    if files.kind == "stdin":
        raise UserError("standard input can be read only once; keep it in a file first.")
    if files.parts:
        return {name: found for part in files.parts for name, found in input_hashes(part).items()}
    if files.kind == "generated":
        digest = hashlib.sha256()
        for pair in _generated(files, ReadReport()):
            digest.update(f"{pair.src}\t{pair.tgt}\n".encode())
        return {files.name: digest.hexdigest()}
    return {str(path): _file_hash(path) for path in files.paths}


def _file_hash(path: Path) -> str:
    try:
        return durable.file_checksum(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}); name a file that can be read.") from None


def keep_stdin(files: CorpusFiles, folder: Path) -> CorpusFiles:
    """Copy standard input into a file of `folder`, because training reads its pairs more than once."""
    if files.kind != "stdin":
        return files
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "stdin.tsv"
    with open_bytes(None) as source, path.open("wb") as kept:
        shutil.copyfileobj(source, kept, 1 << 20)
    return replace(files, paths=(path,))
