"""The public way in: train a recipe, fit a list of pairs, load a run."""

from __future__ import annotations

import hashlib
import io
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from itda import config as recipes
from itda import durable
from itda.config import Config
from itda.errors import MachineError, UserError
from itda.seq2seq import Seq2Seq, find_device
from itda.training.material import cache_folder
from itda.training.report import draw_curve
from itda.training.session import Report, Session, open_session
from itda.training.start import base_of

Show = Callable[[Session], Callable[[Report], None]]


def load(
    run: str | Path | Sequence[str | Path], device: str = "cpu", *, average: str = "probabilities", int8: bool = False
) -> Seq2Seq:
    """Open a run folder for generating, scoring and looking inside; a list of runs is opened as one ensemble.

    With `int8`, matrices are rounded for quicker products on a CPU.
    """
    return Seq2Seq.load(run, device, average, int8)


def train(
    recipe: str | Path | Config,
    *overrides: str,
    run: str | Path | None = None,
    updates: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    resume: bool = False,
    overwrite: bool = False,
    device: str = "cpu",
    start_from: str | Path | None = None,
    on_report: Callable[[Report], None] | None = None,
) -> Seq2Seq:
    """Train a recipe (a path, the name of one that itda ships, or a `Config`) and return the model, ready to use.

    `start_from` is a run folder whose weights and vocabulary training starts from; what the recipe does not say of
    model and tokenizer is that run's (of a `Config`, what has its default value counts as not said). `overrides` are
    "key=value" strings; `updates`, `epochs` or `minutes` replace the recipe's whole budget. The run folder is `run`,
    or runs/<recipe name>; the model's `path` says where. `on_report` sees every update and validation. Pairs that were
    skipped, and the like, are warnings.
    """
    wrong = next((one for one in overrides if not isinstance(one, str)), None)
    if wrong is not None:
        raise UserError(
            f"train got {wrong!r:.60} in place of a setting; settings are texts of their own: "
            'train(recipe, "train.batch=32", "train.seed=2"), and a budget is named: updates=100.'
        )
    config, path = recipe_for(
        recipe,
        overrides,
        run=run,
        updates=updates,
        epochs=epochs,
        minutes=minutes,
        resume=resume,
        start_from=start_from,
    )
    if resume and overwrite:
        raise UserError("resume goes on with a run and overwrite removes it; give one of the two.")
    session = open_session(config, path, resume=resume, overwrite=overwrite, device=find_device(device))
    for notice in notices_of(session):  # pairs that were skipped, among others
        warnings.warn(notice, stacklevel=2)
    return complete(session, on_report or (lambda report: None))


def recipe_for(
    recipe: str | Path | Config,
    overrides: Sequence[str] = (),
    *,
    run: str | Path | None = None,
    updates: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    resume: bool = False,
    start_from: str | Path | None = None,
) -> tuple[Config, Path]:
    """Read what is to be trained: the whole recipe, and the folder of its run, or of a group of its runs."""
    if start_from is not None:
        overrides = (*overrides, f"train.start_from={start_from}")

    def place(config: Config) -> Path:
        return Path(run) if run is not None else Path("runs") / config.name

    base = base_of(place, resume)
    budget: dict[str, Any] = {"updates": updates, "epochs": epochs, "minutes": minutes}
    if not isinstance(recipe, Config):
        config = recipes.load(recipe, overrides, **budget, base=base)
        return config, place(config)
    config = recipe
    for assignment in overrides:
        config = recipes.override(config, assignment)
    named = recipes.changed_keys(recipe) | {assignment.partition("=")[0].strip() for assignment in overrides}
    config = recipes.validate(recipes.with_base(recipes.with_budget(config, **budget), named, base))
    return config, place(config)


def notices_of(session: Session) -> list[str]:
    """Say what there is to tell before the first update: what was skipped, and validation on the training pairs."""
    data = session.run.facts.get("data", {})
    train, valid = (data.get(split, {}) for split in ("train", "valid"))
    if not valid or not set(valid["sha256"]) <= set(train["sha256"]):
        return session.notices
    same = f"data.valid ({valid['name']}) holds the very pairs of data.train: it measures what was learned by heart"
    return [*session.notices, same]


def complete(session: Session, on_report: Callable[[Report], None]) -> Seq2Seq:
    """Run a session to its end, or to its interruption; then the run has no final weights yet."""
    try:
        for report in session.reports():
            on_report(report)
        if session.standing.stopped:
            session.finish()
            draw_curve(session.run)
        return session.seq2seq
    except MachineError as error:
        raise MachineError(f"{error}; this training goes on with --resume") from error
    finally:
        session.close()


def fit(
    pairs: Iterable[tuple[Any, Any]],
    *overrides: str,
    valid: Iterable[tuple[Any, Any]] | None = None,
    recipe: str | Path | None = None,
    run: str | Path | None = None,
    updates: int | None = None,
    epochs: float | None = None,
    minutes: float | None = None,
    start_from: str | Path | None = None,
    **settings: Any,
) -> Seq2Seq:
    """Train on a list of (source, target) pairs: of texts, or of real-valued sequences (length, dim).

    Without `valid`, every tenth text pair (500 at most) is held out where there are 50 or more. Unless they are named,
    the recipe is `fit` for text and `lecture-vectors` for vectors, and the run folder runs/fit, runs/fit-2, ... With
    `start_from`, a run folder, training goes on from its weights, by its own recipe unless another is named.
    """
    train_pairs, held = _checked(pairs, "pairs"), [] if valid is None else _checked(valid, "valid")
    vectors = not isinstance(train_pairs[0][0], str)
    if valid is None and len(train_pairs) >= 50 and not vectors:
        step = max(10, len(train_pairs) // 500)
        held, train_pairs = train_pairs[::step], [pair for n, pair in enumerate(train_pairs) if n % step]
    write = _write_vectors if vectors else _write_texts
    overrides = (*overrides, *([f"train.start_from={start_from}"] if start_from is not None else []))
    usual = start_from or ("lecture-vectors" if vectors else "fit")
    config = recipes.load(recipe or usual, overrides, updates=updates, epochs=epochs, minutes=minutes)
    data = replace(config.data, swap=False, train=write(train_pairs), valid=write(held) if held else "", test="")
    if vectors:
        src, tgt = (_array(side, 0) for side in train_pairs[0])
        data = replace(data, src_dim=src.shape[-1], tgt_dim=tgt.shape[-1])
    watched = config.train if held else replace(config.train, metric="loss", patience=0)
    config = replace(config, data=data, train=watched)
    return train(config, run=run if run is not None else _free(Path("runs"), "fit"), **settings)


def _checked(pairs: Iterable[Any], name: str) -> list[tuple[Any, Any]]:
    """Refuse what is no list of pairs: a dict, or texts in place of pairs, would be taken apart in silence."""
    if isinstance(pairs, (str, Mapping)) or not isinstance(pairs, Iterable):
        raise UserError(f"{name} is a {type(pairs).__name__}; give a list of (source, target) pairs.")
    found = list(pairs)
    if not found:
        raise UserError(f"fit got no {name}; give at least one (source, target).")
    for number, pair in enumerate(found):
        if isinstance(pair, str) or not isinstance(pair, Sequence) or len(pair) != 2:
            raise UserError(f"{name}[{number}] is {pair!r:.60}; it must be a pair (source, target).")
    return found


def _write_texts(pairs: Sequence[tuple[Any, Any]]) -> str:
    """Write pairs into a file named after their content, so that the run can be resumed and its data checked."""
    lines = []
    for number, pair in enumerate(pairs):
        if not all(isinstance(side, str) for side in pair):
            raise UserError(f"pair {number} is not (source text, target text); every pair must be two strings.")
        bad = next((mark for side in pair for mark in "\t\r\n" if mark in side), None)
        if bad:
            raise UserError(f"pair {number} holds {bad!r}, which separates pairs in a file; replace it by a space.")
        half = next((mark for side in pair for mark in side if "\ud800" <= mark <= "\udfff"), None)
        if half:
            raise UserError(f"pair {number} holds {half!r}, half of a character; decode its text as UTF-8 anew.")
        lines.append(f"{pair[0]}\t{pair[1]}\n")
    data = "".join(lines).encode()
    return _store(data, f"{hashlib.sha256(data).hexdigest()[:20]}.tsv")


def _write_vectors(pairs: Sequence[tuple[Any, Any]]) -> str:
    sides = list(zip(*[[_array(side, number) for side in pair] for number, pair in enumerate(pairs)], strict=True))
    arrays: dict[str, np.ndarray] = {}
    for name, series in zip(("src", "tgt"), sides, strict=True):
        if any(one.ndim != 2 or one.shape[1] != series[0].shape[1] for one in series):
            raise UserError(
                f"each {name} must have the shape (length, dim) with one dim for all; got {series[0].shape} first."
            )
        padded = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(one) for one in series], batch_first=True)
        arrays |= {name: padded.numpy(), f"{name}_lengths": np.array([len(one) for one in series])}
    digest = hashlib.sha256(b"".join(array.tobytes() for array in arrays.values())).hexdigest()
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # numpy means its own allow_pickle
    return _store(buffer.getvalue(), f"{digest[:20]}.npz")


def _array(side: Any, number: int) -> np.ndarray:
    """Take a real-valued sequence from whatever holds it: a tensor with a gradient too, a list of lists."""
    try:
        return np.asarray(side.detach().cpu() if isinstance(side, torch.Tensor) else side, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise UserError(f"pair {number} is no two arrays of numbers (length, dim): {error}.") from None


def _store(data: bytes, name: str) -> str:
    """Keep a corpus in the cache; a file of this name that was altered since is replaced."""
    path = cache_folder().resolve() / "pairs" / name
    if not path.exists() or durable.read(path) != data:
        durable.make_folder(path.parent)
        durable.write_whole(path, data)
    return str(path)


def _free(folder: Path, name: str) -> Path:
    number, path = 1, folder / name
    while path.exists():
        number += 1
        path = folder / f"{name}-{number}"
    return path
