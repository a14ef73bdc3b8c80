"""Where recipes are found: at a path, or by name beside the source or inside the installed package."""

from __future__ import annotations

from pathlib import Path

from itda.errors import UserError

PACKAGE = Path(__file__).resolve().parent.parent


def recipe_folders() -> list[Path]:
    """List the folders that hold recipes: a checkout's own first, then what the wheel brought along."""
    folders = [PACKAGE.parent.parent / "recipes"] if (PACKAGE.parent.parent / "pyproject.toml").is_file() else []
    return [folder for folder in [*folders, PACKAGE / "recipes"] if folder.is_dir()]


def recipe_names() -> list[str]:
    """List the names of the recipes that come with itda."""
    return sorted({file.stem for folder in recipe_folders() for file in folder.glob("*.toml")})


def recipe_path(name: str | Path) -> Path:
    """Find a recipe by its path, or by the name of one that comes with itda (`reverse`, `recipes/reverse.toml`)."""
    path = Path(name)
    if path.is_dir() and (path / "config.toml").is_file():
        return path / "config.toml"  # a run folder: the recipe that it was trained with
    if path.is_file():
        return path
    plain = path.parent == Path() or path.parent == Path("recipes")
    if plain:
        stem = path.stem if path.suffix == ".toml" else path.name
        for folder in recipe_folders():
            if (folder / f"{stem}.toml").is_file():
                return folder / f"{stem}.toml"
    known = ", ".join(recipe_names()) or "none"
    raise UserError(f"no recipe '{name}': no such file, nor a recipe that comes with itda ({known}); check the path")
