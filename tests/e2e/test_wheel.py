"""A wheel holds all of itda: installed into an empty environment, it finds the recipes by name."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def output(*command: str | Path, cwd: Path) -> str:
    done = subprocess.run([str(word) for word in command], cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_installed_wheel_finds_its_recipes(tmp_path: Path) -> None:
    pytest.importorskip("hatchling")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check")
    output(*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, ROOT, cwd=tmp_path)
    (wheel,) = tmp_path.glob("*.whl")
    output(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", cwd=tmp_path)
    python = tmp_path / "venv" / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")
    output(*pip, "--python", python, "install", "--no-deps", "--no-index", wheel, cwd=tmp_path)
    # neither torch nor typer is there: what reads recipes must do without
    program = "import itda.config as c; print(c.__file__, *[c.load(name).name for name in c.recipe_names()], sep='\\n')"
    where, *names = output(python, "-c", program, cwd=tmp_path).splitlines()
    assert Path(where).is_relative_to(tmp_path)
    assert names == sorted(file.stem for file in (ROOT / "recipes").glob("*.toml"))
