"""Where a training starts: from nothing, or from the weights and the vocabulary of another run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Generator, Tensor, nn

from itda import weights
from itda.config import Base, Config, starting_point
from itda.errors import UserError
from itda.group import Group, is_group
from itda.nn.grow import grown_bias, grown_rows
from itda.run import CONFIG, FACTS, TOKENIZER, WEIGHTS, RunFolder
from itda.text.extend import Origins, Texts, extend_pair, origins
from itda.text.tokenizer import TokenizerPair, load_tokenizers
from itda.text.vocabulary import SPECIALS


def base_of(place: Callable[[Config], Path], resume: bool) -> Base:
    """Say whose recipe fills in one that starts from a run: that run's, or on a resume its own, which is complete."""

    def base(config: Config) -> Path | None:
        parent, path = starting_point(config), place(config)
        if parent is None or not resume:
            return parent
        own = [path, *(Group.open(path).runs if is_group(path) else [])]
        begun = (one for one in own if (one / FACTS).exists() and RunFolder.open(one).has(CONFIG))
        return next(begun, parent)

    return base


@dataclass(frozen=True)
class Start:
    """A finished run that another training starts from."""

    run: RunFolder
    tokenizers: TokenizerPair | None

    @classmethod
    def open(cls, path: Path, target: Path) -> Start:
        """Open the run at `path`; raise UserError where it is not finished, damaged, or `target` itself."""
        if path.resolve() == target.resolve():
            raise UserError(
                f"train.start_from is {path}, the run that is to be written; name another folder with --run"
            )
        run = RunFolder.open(path)
        if not run.has(WEIGHTS):
            raise UserError(
                f"train.start_from is {path}, whose training has not ended (status {run.facts.get('status')}): "
                "it has no final weights; go on with it first (--resume)"
            )
        run.verify(CONFIG, TOKENIZER)
        return cls(run, load_tokenizers(run.tokenizer_path) if run.has(TOKENIZER) else None)

    def facts(self) -> dict[str, Any]:
        """Say where a run came from, without a path: what it was called, its weights' checksum, what trained them."""
        kept = ("name", "update", "format", "itda", "commit")
        return {key: self.run.facts.get(key) for key in kept} | {"weights": self.run.checksums[WEIGHTS]}

    def vocabulary(self, config: Config, pairs: Texts) -> TokenizerPair:
        """Give the run's own tokenizers, extended as the recipe wants it."""
        assert self.tokenizers is not None, "both ends are text"
        return extend_pair(self.tokenizers, config.tokenizer, pairs)

    def give_weights(self, model: nn.Module, tokenizers: TokenizerPair | None, seed: int) -> dict[str, list[int]]:
        """Copy the final weights into a model whose vocabulary may have grown; say from which sizes to which."""
        given = weights.read(self.run.weights_path, self.run.checksums[WEIGHTS])
        grown: dict[str, list[int]] = {}
        if self.tokenizers is not None and tokenizers is not None:
            sides = {
                name: origins(old, new)
                for name, old, new in (
                    ("src", self.tokenizers.src, tokenizers.src),
                    ("tgt", self.tokenizers.tgt, tokenizers.tgt),
                )
            }
            given = grow(given, model.state_dict(), sides["src"], sides["tgt"], Generator().manual_seed(seed))
            sizes = {"src": (self.tokenizers.src, tokenizers.src), "tgt": (self.tokenizers.tgt, tokenizers.tgt)}
            grown = {name: [old.vocab_size, new.vocab_size] for name, (old, new) in sizes.items() if sides[name]}
        weights.load_into(model, given, self.run.weights_path)
        return grown


def grow(
    given: Mapping[str, Tensor], targets: Mapping[str, Tensor], src: Origins, tgt: Origins, draw: Generator
) -> dict[str, Tensor]:
    """Append rows to each tensor that has one for each entry of a vocabulary; tied ones stay one tensor.

    These are the tensors whose first size alone is smaller than the model's, by the number of new entries of the side.
    """
    tied, grown = weights.ties(given), {}
    for name in sorted(given.keys() - tied.keys()):
        tensor, new = given[name], src if name.startswith("encoder.") else tgt
        wanted = targets[name].shape if name in targets else tensor.shape
        if not new or tensor.dim() == 0 or wanted != (len(tensor) + len(new), *tensor.shape[1:]):
            grown[name] = tensor
        elif tensor.dim() == 1:
            grown[name] = grown_bias(tensor, len(new), len(SPECIALS))
        else:
            grown[name] = grown_rows(tensor, new, len(SPECIALS), draw)
    return {name: grown[tied.get(name, name)] for name in given}


def same_start(facts: Mapping[str, Any], start: Start, path: Path) -> None:
    """Refuse to begin a run again from other weights than it was begun from."""
    before = facts.get("started_from")
    if before and before["weights"] != start.facts()["weights"]:
        raise UserError(
            f"{start.run.path} is not what {path} was begun from (its weights have changed since); put the old run "
            "back, or begin anew with --overwrite."
        )
