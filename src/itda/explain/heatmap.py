"""A heat map of attention: the source along the top, the target down the side, dark where the model looked."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from itda.errors import UserError
from itda.explain import fonts, picture

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.patches import Patch

PAD, EOS = "<pad>", "<eos>"
CELL, SMALLEST_CELL, LARGEST_SIDE = 0.30, 0.12, 24.0  # inches
SHADES = ("#ffffff", "#dfeaf4", "#a9c8e3", "#5f97c8", "#1f5c99", "#0b2f57")


def heatmap(
    weights: Float[ndarray, "rows columns"],
    src_tokens: Sequence[str],
    tgt_tokens: Sequence[str],
    path: str | Path,
    *,
    title: str = "",
    gold: Collection[tuple[int, int]] = (),
) -> Path:
    """Draw alpha (target x source) into a PNG or SVG; row t is where the model looked to write target token t.

    There must be exactly one token for each row and column, eos included where its weights are. `gold` links
    (source, target) are outlined.
    """
    path = Path(path)
    picture.suffix_of(path)
    weights, src_tokens, tgt_tokens = checked(weights, src_tokens, tgt_tokens)
    for i, j in gold:
        if not (0 <= i < len(src_tokens) and 0 <= j < len(tgt_tokens)):
            raise UserError(f"gold link {i}-{j} is outside the picture; links are (source, target) and count from 0.")
    with fonts.drawing(*src_tokens, *tgt_tokens, title, "U+0123456789ABCDEF␣…"):
        from matplotlib.figure import Figure

        src_labels, tgt_labels = fonts.labels(src_tokens), fonts.labels(tgt_tokens)
        rows, columns = weights.shape
        cell = min(CELL, max(SMALLEST_CELL, LARGEST_SIDE / max(rows, columns)))
        figure = Figure(figsize=(columns * cell, rows * cell))
        axes = figure.add_axes((0, 0, 1, 1))  # exactly the cells; what is written around them is added on saving
        _cells(axes, weights)
        _tokens(axes, src_labels, tgt_labels, size=min(10.0, cell * 72 * 0.5))
        for i, j in gold:
            axes.add_patch(_outline(i, j))
        if title:
            axes.set_title(fonts.readable(title), fontsize=11, color=picture.INK, pad=10)
        return picture.save(figure, path)


def checked(
    weights: Float[ndarray, "rows columns"], src_tokens: Sequence[str], tgt_tokens: Sequence[str]
) -> tuple[Float[ndarray, "tgt src"], list[str], list[str]]:
    """Check that weights and tokens fit and are a distribution, and cut padding off the end of both sides."""
    weights, src_tokens, tgt_tokens = np.asarray(weights), list(src_tokens), list(tgt_tokens)
    expected = (len(tgt_tokens), len(src_tokens))
    if weights.shape != expected:
        turned = "; it looks transposed" if weights.shape == expected[::-1] else ""
        raise UserError(
            f"attention weights have the shape {weights.shape}, but there are {expected[0]} target and {expected[1]} "
            f"source tokens{turned}; give (target, source) weights and one token for each row and column, eos included."
        )
    while tgt_tokens and tgt_tokens[-1] == PAD:
        weights, tgt_tokens = weights[:-1], tgt_tokens[:-1]
    while src_tokens and src_tokens[-1] == PAD:
        if weights[:, -1].any():
            raise UserError(
                f"attention on padding is {weights[:, -1].max():.3g}; it must be 0: mask before the softmax."
            )
        weights, src_tokens = weights[:, :-1], src_tokens[:-1]
    if not weights.size:
        raise UserError("there is nothing to draw: a sentence pair without tokens.")
    if not np.isfinite(weights).all() or weights.min() < 0 or weights.sum(axis=1).max() > 1.01:
        raise UserError("attention weights must be numbers from 0 to 1 whose rows sum to 1; give alpha, not scores.")
    return weights, src_tokens, tgt_tokens


def _cells(axes: Axes, weights: Float[ndarray, "tgt src"]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    colours = LinearSegmentedColormap.from_list("itda", SHADES)
    # 0 to 1 in every picture, so that two of them can be compared.
    axes.imshow(weights, cmap=colours, vmin=0.0, vmax=1.0, aspect="equal", interpolation="nearest")
    rows, columns = weights.shape
    axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(rows + 1) - 0.5, minor=True)
    axes.grid(which="minor", color=picture.FAINT, linewidth=0.5)
    axes.tick_params(which="both", length=0)
    for spine in axes.spines.values():
        spine.set(color=picture.FAINT, linewidth=0.8)


def _tokens(axes: Axes, src: Sequence[str], tgt: Sequence[str], size: float) -> None:
    """Write the tokens: upright where every source token fits its cell, else climbing to the right."""
    upright = all(len(token) == 1 for token in src if token != EOS)
    axes.xaxis.tick_top()
    turn: dict[str, Any] = {} if upright else {"rotation": 50, "ha": "left", "va": "bottom", "rotation_mode": "anchor"}
    axes.set_xticks(range(len(src)), src, fontsize=size, color=picture.INK, **turn)
    axes.set_yticks(range(len(tgt)), tgt, fontsize=size, color=picture.INK)
    axes.tick_params(which="major", pad=3)


def _outline(i: int, j: int) -> Patch:
    from matplotlib.patches import Rectangle

    return Rectangle((i - 0.42, j - 0.42), 0.84, 0.84, fill=False, edgecolor=picture.SECOND, linewidth=1.2)
