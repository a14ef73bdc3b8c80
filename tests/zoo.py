"""Every model that a recipe can name, tiny, in float64, with random weights: what the laws are tested on.

ZOO holds them all by name; FEW is a handful in which each two properties meet at least once.
"""

import functools
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from itda.batch import Batch, Side, Tokens, Vectors, token_batch, vector_batch
from itda.build import build_model
from itda.config import AttentionConfig, Config, DataConfig, DecoderConfig, EncoderConfig, ModelConfig, problems
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.interface import Decoded, Decoder, Memory

VOCAB = 11
SRC_DIM, TGT_DIM = 3, 4
SRC_LENGTHS, TGT_LENGTHS = (5, 2, 4), (2, 4, 3)
DECODERS = {
    "plain": ("plain", True),
    "bahdanau": ("bahdanau", True),
    "luong": ("luong", False),
    "feeding": ("luong", True),
}
ATTENTIONS = ("additive", "dot", "general", "concat")


@dataclass(frozen=True)
class Kind:
    """What tells one model from another."""

    data: str = "text"
    cell: str = "lstm"
    layers: int = 1
    directions: int = 1
    decoder: str = "bahdanau"
    decoder_cell: str = "lstm"
    bridge: str = "dense"
    attention: str = "additive"

    @property
    def name(self) -> str:
        """The id of a test."""
        encoder = f"{self.layers}{'bi' if self.directions == 2 else ''}{self.cell}"
        score = "" if self.decoder == "plain" else f"-{self.attention}"
        return f"{self.data}-{encoder}-{self.bridge}-{self.decoder}-{self.decoder_cell}{score}"

    def config(self) -> Config:
        """The recipe, with sizes that differ wherever they may, so that no two can be mistaken for each other."""
        form, feeding = DECODERS[self.decoder]
        equal = self.bridge == "copy" or (self.attention == "dot" and form != "plain")
        return Config(
            data=DataConfig(kind=self.data, train="-", src_dim=SRC_DIM, tgt_dim=TGT_DIM),
            model=ModelConfig(
                embedding_dim=5,
                encoder=EncoderConfig(
                    cell=self.cell, dim=6, num_layers=self.layers, bidirectional=self.directions == 2
                ),
                decoder=DecoderConfig(
                    kind=form,
                    cell=self.decoder_cell,
                    dim=6 if equal else 4,
                    num_layers=self.layers,
                    input_feeding=feeding,
                    bridge=self.bridge,
                ),
                attention=AttentionConfig(kind=self.attention, dim=7),
            ),
        )


def _valid(kind: Kind) -> bool:
    if kind.decoder == "plain" and kind.attention != ATTENTIONS[0]:
        return False  # the same model again
    if kind.data == "vectors" and (kind.cell != kind.decoder_cell or kind.layers != kind.directions):
        return False  # nothing but the two ends differs from text: a share of them will do
    told = [problem for problem in problems(kind.config()) if "budget" not in problem]
    return not any("bridge" in problem for problem in told)


OPTIONS = {
    "data": ("text", "vectors"),
    "cell": ("lstm", "gru"),
    "layers": (1, 2),
    "directions": (1, 2),
    "decoder": tuple(DECODERS),
    "decoder_cell": ("lstm", "gru"),
    "bridge": ("dense", "copy"),
    "attention": ATTENTIONS,
}
KINDS = [kind for values in itertools.product(*OPTIONS.values()) if _valid(kind := Kind(*values))]


def _covering(kinds: list[Kind]) -> list[Kind]:
    """A few of them in which each pair of values that meets in one of them meets at least once."""

    def meetings(kind: Kind) -> set[tuple]:
        return set(itertools.combinations(vars(kind).items(), 2))

    chosen, open_ = [], set().union(*map(meetings, kinds))
    while open_:
        chosen.append(max(kinds, key=lambda kind: len(meetings(kind) & open_)))
        open_ -= meetings(chosen[-1])
    return chosen


ZOO = {kind.name: kind for kind in KINDS}
FEW = {kind.name: kind for kind in _covering(KINDS)}


@functools.cache
def model_of(kind: Kind) -> EncoderDecoder:
    """The model of a kind, in evaluation; it is shared, so leave its weights alone (`fresh` gives one to train)."""
    return fresh(kind).eval()


def fresh(kind: Kind, seed: int = 0) -> EncoderDecoder:
    """A model of its own, with weights large enough that gates and attention are neither open, shut nor uniform."""
    torch.manual_seed(seed)
    model = build_model(kind.config(), VOCAB, VOCAB).double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.6)
    return model


def batch_of(kind: Kind, src: Sequence[int] = SRC_LENGTHS, tgt: Sequence[int] = TGT_LENGTHS, seed: int = 1) -> Batch:
    """A batch of random sequences of these lengths, for a model of this kind."""
    draw = torch.Generator().manual_seed(seed)
    if kind.data == "vectors":
        sides = [
            [torch.randn(length, dim, generator=draw) for length in lengths]
            for lengths, dim in ((src, SRC_DIM), (tgt, TGT_DIM))
        ]
        return doubled(vector_batch(*sides, index=range(len(src))))
    words = [[torch.randint(4, VOCAB, (length,), generator=draw).tolist() for length in one] for one in (src, tgt)]
    return token_batch(*words, index=range(len(src)))


def doubled(batch: Batch) -> Batch:
    """Real-valued sides in float64."""
    if isinstance(batch.src, Tokens):
        return batch
    return on_sides(batch, lambda side: replace(side, values=side.values.double()))


def on_sides(batch: Batch, change) -> Batch:
    """Change the three sides of a batch in the same way."""
    return Batch(change(batch.src), change(batch.tgt_in), change(batch.tgt_out), batch.index)


def rows_of(side: Side, rows: Tensor) -> Side:
    """Some rows of a side, in this order."""
    values, mask = side.values[rows], side.mask[rows]
    return Tokens(values, mask) if isinstance(side, Tokens) else Vectors(values, mask)


def trimmed(side: Side) -> Side:
    """A side without the columns that are padding in each row."""
    width = int(side.mask.sum(1).max())
    values, mask = side.values[:, :width], side.mask[:, :width]
    return Tokens(values, mask) if isinstance(side, Tokens) else Vectors(values, mask)


def padded(side: Side, extra: int, seed: int = 5) -> Side:
    """A side with more padding, and with garbage under all of it."""
    draw = torch.Generator().manual_seed(seed)
    mask = torch.cat([side.mask, side.mask.new_zeros(len(side.mask), extra)], dim=1)
    if isinstance(side, Tokens):
        garbage = torch.randint(0, VOCAB, mask.shape, generator=draw)
        return Tokens(torch.where(mask, torch.nn.functional.pad(side.ids, (0, extra)), garbage), mask)
    longer = torch.nn.functional.pad(side.values, (0, 0, 0, extra))
    garbage = 1e6 * torch.randn(longer.shape, generator=draw, dtype=longer.dtype)
    return Vectors(torch.where(mask[..., None], longer, garbage), mask)


def stepped(decoder: Decoder, tgt_in: Side, memory: Memory) -> Decoded:
    """What repeated `step` says: the slow twin of `forward`."""
    state, parts = decoder.start(memory), []
    for previous in tgt_in.values.unbind(1):
        decoded, state = decoder.step(previous, state)
        parts.append(decoded)
    first = parts[0]
    return Decoded(
        torch.cat([part.features for part in parts], 1),
        None if first.weights is None else torch.cat([part.weights for part in parts], 1),
        None if first.contexts is None else torch.cat([part.contexts for part in parts], 1),
    )


class Leaves:
    """While it is open, what an embedder gives is a leaf of the graph: `values`, ready for a gradient."""

    def __init__(self, embed: nn.Module) -> None:
        self.embed, self.values = embed, []

    def __enter__(self) -> "Leaves":
        def cut(_module: nn.Module, _inputs: object, output: Tensor) -> Tensor:
            self.values.append(output.detach().requires_grad_())
            return self.values[-1]

        self.handle = self.embed.register_forward_hook(cut)
        return self

    def __exit__(self, *error: object) -> None:
        self.handle.remove()
