"""Give each peer a Python environment of its own: venv, pip, and the few repairs that its release needs today.

A peer is never a dependency of itda. Its environment stands in a cache folder and is built once; a mark beside it
holds the recipe it was made by, so that a changed recipe makes it anew. What pip said is kept in a log.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

TORCH = "torch==2.13.0"
MINUTES = 30


@dataclass(frozen=True)
class Repair:
    """A text in a file of site-packages that must be another for the release to run beside today's libraries."""

    file: str
    old: str
    new: str


@dataclass(frozen=True)
class Recipe:
    """How a peer is installed: the calls of pip in their order, empty modules in place of unused ones, repairs."""

    calls: tuple[tuple[str, ...], ...]
    stubs: tuple[str, ...] = ()
    repairs: tuple[Repair, ...] = ()
    variables: tuple[tuple[str, str], ...] = ()

    def key(self) -> str:
        """Name the recipe by its content, and by the Python that it is for."""
        text = json.dumps([asdict(self), sys.version_info[:2]], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


RECIPES = {
    "opennmt": Recipe(
        calls=(
            (TORCH,),
            ("--no-deps", "OpenNMT-py==3.5.1"),  # its own pins ask for a torch below 2.3
            ("configargparse", "pyyaml", "six", "sacrebleu==2.6.0", "rapidfuzz", "pyahocorasick", "tensorboard"),
            ("ctranslate2==4.8.5", "pyonmttok", "flask", "waitress", "sentencepiece==0.2.3"),
        ),
        stubs=("spacy", "fasttext"),
        variables=(("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1"),),
    ),
    "joeynmt": Recipe(
        calls=((TORCH,), ("joeynmt==2.3.0", "importlib_metadata"), ("sentencepiece==0.2.0",)),
        repairs=(Repair("joeynmt/builders.py", '"verbose": False,', ""),),
    ),
    "huggingface": Recipe(calls=((TORCH,), ("transformers==5.23.0", "numpy"))),
    "ctranslate2": Recipe(calls=(("ctranslate2==4.8.5", "numpy"),)),
}


class NotInstalled(Exception):
    """Why a peer has no environment."""


def default_folder() -> Path:
    """Name the folder of the environments where none is given: in the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "itda-benchmarks"


def python_of(folder: Path) -> Path:
    """Name the interpreter of an environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def install(peer: str, root: Path) -> Path:
    """Give the interpreter of a peer's environment, made now where it is missing or was made by another recipe."""
    recipe, folder = RECIPES[peer], root / peer
    mark = root / f"{peer}.done"
    if mark.is_file() and mark.read_text(encoding="utf-8").strip() == recipe.key() and python_of(folder).exists():
        return python_of(folder)
    root.mkdir(parents=True, exist_ok=True)
    mark.unlink(missing_ok=True)
    if folder.exists():
        shutil.rmtree(folder)
    log = root / f"{peer}.log"
    with log.open("w", encoding="utf-8") as file:
        _run([sys.executable, "-m", "venv", str(folder)], file.fileno(), peer, log)
        for call in recipe.calls:
            _run([str(python_of(folder)), "-m", "pip", "install", "--quiet", *call], file.fileno(), peer, log)
    _mend(recipe, _site_packages(folder), peer)
    mark.write_text(recipe.key() + "\n", encoding="utf-8")
    return python_of(folder)


def _run(command: list[str], log: int, peer: str, file: Path) -> None:
    try:
        subprocess.run(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, timeout=60 * MINUTES, check=True)
    except (OSError, subprocess.SubprocessError) as error:
        raise NotInstalled(f"{peer} could not be installed ({' '.join(command[-3:])}: {error}); see {file}") from error


def _site_packages(folder: Path) -> Path:
    ask = "import sysconfig; print(sysconfig.get_path('purelib'))"
    found = subprocess.run([str(python_of(folder)), "-c", ask], capture_output=True, text=True, check=True)
    return Path(found.stdout.strip())


def _mend(recipe: Recipe, packages: Path, peer: str) -> None:
    for name in recipe.stubs:
        (packages / f"{name}.py").touch()
    for repair in recipe.repairs:
        file = packages / repair.file
        text = file.read_text(encoding="utf-8")
        if repair.old not in text:
            raise NotInstalled(f"{peer} has no {repair.old!r} in {repair.file}: another release than the recipe knows")
        file.write_text(text.replace(repair.old, repair.new), encoding="utf-8")


def versions(python: Path) -> dict[str, str]:
    """Read what an environment holds: the distributions that decide speed."""
    asked = ["torch", "OpenNMT-py", "joeynmt", "transformers", "ctranslate2", "numpy", "sentencepiece"]
    code = (
        "import importlib.metadata as m, json, sys; found = {};\n"
        f"for name in {asked!r}:\n"
        "    try: found[name] = m.version(name)\n"
        "    except m.PackageNotFoundError: pass\n"
        "print(json.dumps(found | {'python': sys.version.split()[0]}))"
    )
    found = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    result: dict[str, str] = json.loads(found.stdout)
    return result
