"""Names of corpora: a path, two paths, a name under ITDA_DATA, a generator, or standard input."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from pathlib import Path

from itda.data.corpus import EACH, CorpusFiles
from itda.data.synthetic import find
from itda.errors import UserError
from itda.text.tags import split_tag

VARIABLE = "ITDA_DATA"
_JOINED, _TURNED = " + ", "swap:"
_ENDINGS = ("", ".tsv.gz", ".tsv")
_NO_SIDE = {"tsv", "md", "txt", "json", "gz"}
_LICENCE = re.compile(r"^[\s*-]*licen[cs]e\**\s*:\**\s*(.+)$", re.IGNORECASE)


def locate(name: str, *, seed: int = 1, pairs: int | None = None) -> CorpusFiles:
    """Find the files that a corpus name means; `seed` and `pairs` go to a generator (make:NAME/SPLIT).

    Training alone says how many `pairs` (0: the generator's own number), and for it a missing split means train;
    elsewhere the split must be named, lest a model be measured on what it was trained on.

    A name is a path, SRC,TGT (two paths), NAME/SPLIT under ITDA_DATA, make:NAME/SPLIT, or - for standard input.
    `<2de> NAME` gives all of its sources the tag of a language, `<2*> NAME` each that of its third column; `swap:NAME`
    is read from right to left; several are joined by ` + `. Raises UserError that lists every place where it was
    looked for.
    """
    if _JOINED in name and not all(Path(part.strip()).expanduser().is_file() for part in name.split(",")):
        several = tuple(locate(part.strip(), seed=seed, pairs=pairs) for part in name.split(_JOINED))
        if any(part.kind == "stdin" for part in several):
            raise UserError(f"{name}: standard input cannot be one of several corpora; write it into a file first.")
        return CorpusFiles(
            name, parts=several, licence=tuple(dict.fromkeys(one for part in several for one in part.licence))
        )
    language, rest = split_tag(name)
    if language:
        files = replace(locate(rest.strip(), seed=seed, pairs=pairs), name=name, tag=language)
        if language == EACH and files.kind not in ("tsv", "stdin"):
            raise UserError(
                f"{name}: {rest.strip()} has no third column; write <2de> (its language) in place of <2{EACH}>."
            )
        return files
    if name.startswith(_TURNED):
        return replace(locate(name.removeprefix(_TURNED).strip(), seed=seed, pairs=pairs), name=name, turned=True)
    if name == "-":
        return CorpusFiles(name)
    if name.startswith("make:"):
        generator, _, split = name.removeprefix("make:").partition("/")
        if pairs is None and not split:
            raise UserError(f"{name} names no split; {_splits(generator)}.")
        find(generator)
        return CorpusFiles(name, generator=generator, split=split or "train", seed=seed, pairs=pairs or 0)
    if not name.strip():
        raise UserError("no corpus is named; give a file, SRC,TGT, NAME/SPLIT under ITDA_DATA, or make:GENERATOR.")
    looked: list[str] = []
    paths = _find(name, looked)
    if not paths and "," in name:
        parts = name.split(",")
        if len(parts) != 2:
            raise UserError(f"{name} names {len(parts)} files; parallel text is two files, SRC,TGT.")
        found = [_find(part.strip(), looked, alone=True) for part in parts]
        paths = (found[0][0], found[1][0]) if all(found) else ()
    if not paths:
        raise UserError(_not_found(name, looked))
    return CorpusFiles(name, paths, licence=_licence(paths[0].parent))


def _splits(generator: str) -> str:
    return "write " + " or ".join(f"make:{generator}/{split}" for split in find(generator).pairs)


def _root() -> Path | None:
    named = os.environ.get(VARIABLE)
    return Path(named) if named else None


def _find(name: str, looked: list[str], alone: bool = False) -> tuple[Path, ...]:
    """Find one file, or (unless `alone`) two parallel ones; keep in `looked` every place that was tried."""
    root = _root()
    bases = [Path(name).expanduser(), *([root / name] if root and not Path(name).is_absolute() else [])]
    for base in bases:
        for ending in _ENDINGS:
            path = base.with_name(base.name + ending) if base.name else base
            if path.is_file():
                return (path,)
            looked.append(str(path))
        if not alone and (sides := _parallel_files(base)):
            return sides
    return ()


def _parallel_files(base: Path) -> tuple[Path, ...]:
    """Find BASE.xx and BASE.yy, in the order in which xx and yy stand in the name of their folder."""
    if not base.parent.is_dir():
        return ()
    sides: dict[str, Path] = {}
    for path in sorted(base.parent.glob(_literal(base.name) + ".*")):
        language = path.name[len(base.name) + 1 :].removesuffix(".gz")
        if re.fullmatch(r"[A-Za-z]{2,3}([-_]\w+)?", language) and language.lower() not in _NO_SIDE and path.is_file():
            sides[language] = path
    if not sides:
        return ()
    words = re.split(r"[^A-Za-z]+", base.parent.name)
    if len(sides) == 2 and all(language in words for language in sides):
        return tuple(sides[language] for language in sorted(sides, key=words.index))
    names = ", ".join(path.name for path in sides.values())
    raise UserError(
        f"{base} may mean {names}, and the folder's name does not say which is source and which target; write SRC,TGT."
    )


def _literal(name: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", name)


def _not_found(name: str, looked: list[str]) -> str:
    root = _root()
    places = "; ".join(looked)
    folders = [base for base in (Path(name), *([root / name] if root else [])) if base.is_dir()]
    if folders:
        splits = sorted({path.name.split(".")[0] for path in folders[0].glob("*.tsv*")})
        known = ", ".join(f"{name.rstrip('/')}/{split}" for split in splits) or "it holds no .tsv or .tsv.gz"
        return f"{name} is a folder; name one of its splits: {known}."
    where = f"{VARIABLE} is {root}" if root else f"{VARIABLE} is not set"
    return (
        f"there is no corpus {name}; looked for {places}; {where}; set {VARIABLE} to the folder of your corpora, "
        "or give the path of a file."
    )


def _licence(folder: Path) -> tuple[str, ...]:
    """Read the licence lines of the README beside a corpus; without one, the first line of its LICENSE."""
    readme = folder / "README.md"
    try:
        if readme.is_file():
            lines = readme.read_text(encoding="utf-8", errors="replace")[: 1 << 18].split("\n")
            return tuple(m[1].strip() for m in map(_LICENCE.match, lines) if m)
        for name in ("LICENSE", "LICENCE", "LICENSE.txt"):
            if (folder / name).is_file():
                text = (folder / name).read_text(encoding="utf-8", errors="replace")[: 1 << 12]
                return tuple(line.strip() for line in text.split("\n") if line.strip())[:1]
    except OSError:
        pass  # a licence that cannot be read is not recorded; the corpus itself is what was asked for
    return ()
