"""Settings that are small languages of their own: lists of factors, and lists of language tags."""

from __future__ import annotations

import re
from dataclasses import dataclass

from itda.errors import UserError

AUTOMATIC = ("case",)  # factors that are made from the word itself, and need no annotation
MOST_CONCATENATED = 4096
_FACTOR = re.compile(r"(?P<name>[^\W\d][\w-]*)(:(?P<dim>[0-9]{1,9}))?")
_TAG = re.compile(r"[^\W_][\w-]*")


@dataclass(frozen=True)
class FactorSpec:
    """One factor: its name, and how many numbers of its own it puts beside the word's embedding (0: it is added)."""

    name: str
    dim: int = 0


def parts_of(text: str) -> list[str]:
    """Cut a list with commas between its parts; an empty text has none."""
    return [part.strip() for part in text.split(",")] if text.strip() else []


def factor_specs(text: str, key: str, summed_only: bool = False) -> tuple[FactorSpec, ...]:
    """Read a list of factors: NAME (its embedding is added to the word's) or NAME:DIM (it stands beside it).

    With `summed_only` there are no embeddings, and NAME is all that may be written.
    """
    specs: list[FactorSpec] = []
    for part in parts_of(text):
        found = _FACTOR.fullmatch(part)
        dim = int(found["dim"] or 0) if found else 0
        if found is None or (found["dim"] and (summed_only or not 1 <= dim <= MOST_CONCATENATED)):
            shape = "NAME" if summed_only else f"NAME or NAME:DIM (DIM from 1 to {MOST_CONCATENATED})"
            raise UserError(f'{key} holds "{part}"; a factor is written {shape}, with commas between several')
        if any(found["name"] == spec.name for spec in specs):
            raise UserError(f'{key} names "{found["name"]}" twice; each factor has a name of its own')
        specs.append(FactorSpec(found["name"], dim))
    return tuple(specs)


def annotated(specs: tuple[FactorSpec, ...]) -> tuple[str, ...]:
    """Name the factors that stand in the text behind each word, in this order."""
    return tuple(spec.name for spec in specs if spec.name not in AUTOMATIC)


def tag_names(text: str, key: str = "data.tags") -> tuple[str, ...]:
    """Read a list of languages."""
    names = parts_of(text)
    for place, name in enumerate(names):
        if not _TAG.fullmatch(name):
            raise UserError(f'{key} holds "{name}"; a language is a word such as de or pt-BR, commas between several')
        if name in names[:place]:
            raise UserError(f'{key} names "{name}" twice; name each language once')
    return tuple(names)
