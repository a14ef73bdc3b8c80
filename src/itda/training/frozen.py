"""Frozen parts: parameters that get no gradient, are no business of the optimizer and stay bit for bit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

from torch import nn

from itda.errors import UserError
from itda.weights import ties

# The embeddings are a part of their own: under model.tie = "all" one table serves encoder, decoder and head.
EMBEDDINGS = ("encoder.embed.", "decoder.embed.")
PARTS = ("encoder", "decoder", "embedding", "head")


@dataclass(frozen=True)
class Frozen:
    """What was frozen: names of parameters, and how many numbers train of how many."""

    names: tuple[str, ...]
    trained: int
    total: int
    notices: tuple[str, ...] = ()


def freeze(model: nn.Module, patterns: Sequence[str]) -> Frozen:
    """Freeze the parameters that some pattern names: a part, or a pattern of parameter names with * and ?.

    Tied parameters are one: whoever freezes the first freezes the others, and a notice says so. Raises UserError for a
    pattern that names nothing, and where nothing is left to train.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    wanted: set[str] = set()
    for pattern in patterns:
        found = {name for name in named if belongs(name, pattern)}
        if not found:
            raise UserError(
                f'train.freeze holds "{pattern}", which names no parameter; it must be one of {", ".join(PARTS)} '
                f"or a pattern of parameter names, such as {pattern_like(named)}"
            )
        wanted |= found
    first = ties(named)
    groups = {first.get(name, name) for name in wanted}
    names = sorted(name for name in named if first.get(name, name) in groups)
    for name in names:
        named[name].requires_grad_(False)
    unique = {id(parameter): parameter for parameter in named.values()}.values()
    trained = sum(one.numel() for one in unique if one.requires_grad)
    total = sum(one.numel() for one in unique)
    if not trained:
        raise UserError("train.freeze freezes every parameter, and nothing would be learned; leave some part out of it")
    return Frozen(tuple(names), trained, total, tuple(_notices(patterns, wanted, names, first, trained, total)))


def belongs(name: str, pattern: str) -> bool:
    """Say whether a parameter is of a part, or matches a pattern."""
    embedding = name.startswith(EMBEDDINGS)
    if pattern == "embedding":
        return embedding
    if pattern in PARTS:
        return name.startswith(pattern + ".") and not embedding
    return fnmatchcase(name, pattern)


def pattern_like(named: Sequence[str] | dict[str, nn.Parameter]) -> str:
    """Give an example of a pattern that this model has."""
    deep = [name for name in named if name.count(".") >= 3] or list(named)
    return ".".join(deep[-1].split(".")[:2]) + ".*"


def _notices(
    patterns: Sequence[str], wanted: set[str], names: Sequence[str], first: dict[str, str], trained: int, total: int
) -> list[str]:
    if not patterns:
        return []
    said = [f"train.freeze: {trained:,} of {total:,} parameters train; frozen: {', '.join(patterns)}"]
    for name in names:
        if name not in wanted:
            others = [one for one in names if one in wanted and first.get(one, one) == first.get(name, name)]
            said.append(f"train.freeze: {name} is frozen too, since it is one tensor with {others[0]} (model.tie)")
    return said
