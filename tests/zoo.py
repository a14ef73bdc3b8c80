"""Every model that a recipe can name, tiny, in float64, with random weights: what the laws are tested on.

ZOO holds all recurrent ones by name, and of those with other parts as many as let each two properties meet; FEW is a
handful of the recurrent ones, chosen in the same way, and all the others.
"""

import functools
import itertools
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from itda.batch import Batch, Side, Tokens, Vectors, token_batch, vector_batch
from itda.build import build_model
from itda.config import (
    AttentionConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TransformerConfig,
    problems,
)
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
RECURRENT_DECODERS = {**DECODERS, "gnmt": ("gnmt", True)}
OTHER_ENCODERS = ("transformer", "convolution")
OTHER_DECODERS = ("transformer", "ssru")
FACTORED = {"source_factors": "case, pos:3", "target_factors": "case", "tags": "de, fr"}
FACTOR_SIZES = ((3, 4), (4,))  # of source and target; no value and an unknown one are two of them
ATTENTIONS = ("additive", "dot", "general", "concat")


@dataclass(frozen=True)
class Kind:
    """What tells one model from another."""

    data: str = "text"
    encoder: str = "recurrent"
    cell: str = "lstm"
    layers: int = 1
    directions: int = 1
    decoder: str = "bahdanau"
    decoder_cell: str = "lstm"
    bridge: str = "dense"
    attention: str = "additive"
    positions: str = "sinusoidal"
    norm: str = "layer"
    norm_first: bool = True
    activation: str = "relu"
    kv_heads: int = 0
    layer_norm: bool = False
    both_ways: int = 0
    residual: int = 0
    factors: bool = False  # of source and target, and tags

    @property
    def recurrent(self) -> bool:
        """Whether encoder and decoder both are."""
        return self.encoder == "recurrent" and self.decoder in RECURRENT_DECODERS

    @property
    def looks(self) -> bool:
        """Whether the decoder has attention."""
        return self.decoder != "plain"

    @property
    def name(self) -> str:
        """The id of a test: what is as it is by default is not named."""
        encoder = f"{self.layers}{'bi' if self.directions == 2 else ''}{self.cell}"
        encoder = encoder if self.encoder == "recurrent" else f"{self.layers}{self.encoder}"
        decoder = f"{self.decoder}-{self.decoder_cell}" + (f"-{self.attention}" if self.looks else "")
        decoder = f"{self.bridge}-{decoder}" if self.decoder in RECURRENT_DECODERS else self.decoder
        deep = {"normed": self.layer_norm, "both": self.both_ways, "residual": self.residual}
        decoder = "-".join([decoder, *(f"{name}{int(value)}" for name, value in deep.items() if value)])
        shape = (self.positions, self.norm, "pre" if self.norm_first else "post", self.activation, str(self.kv_heads))
        shape = () if self.recurrent else shape
        return "-".join([self.data, encoder, decoder, *shape, *["factors"] * self.factors])

    def config(self) -> Config:
        """The recipe, with sizes that differ wherever they may, so that no two can be mistaken for each other."""
        form, feeding = RECURRENT_DECODERS.get(self.decoder, (self.decoder, True))
        dim = 8 if self.encoder == "transformer" or form == "ssru" else 6
        equal = self.bridge == "copy" or (self.attention == "dot" and form != "plain")
        return Config(
            data=DataConfig(
                kind=self.data,
                train="-",
                src_dim=SRC_DIM,
                tgt_dim=TGT_DIM,
                **(FACTORED if self.factors else {}),
            ),
            model=ModelConfig(
                embedding_dim=5,
                encoder=EncoderConfig(
                    kind=self.encoder,
                    cell=self.cell,
                    dim=dim,
                    num_layers=self.layers,
                    bidirectional=self.directions == 2,
                    bidirectional_layers=self.both_ways,
                    layer_norm=self.layer_norm,
                    residual_from=self.residual,
                ),
                decoder=DecoderConfig(
                    kind=form,
                    cell=self.decoder_cell,
                    dim=dim if equal or form == "ssru" else 4,  # of few ReLUs, all may be shut at once
                    num_layers=self.layers,
                    input_feeding=feeding,
                    bridge=self.bridge,
                    layer_norm=self.layer_norm,
                    residual_from=self.residual,
                ),
                attention=AttentionConfig(
                    kind=self.attention,
                    dim=10 if self.attention == "multihead" else 7,
                    num_heads=2,
                    filters=3,
                    kernel_width=3,
                ),
                transformer=TransformerConfig(
                    num_heads=2,
                    num_kv_heads=self.kv_heads,
                    ffn_dim=9,
                    activation=self.activation,
                    norm=self.norm,
                    norm_first=self.norm_first,
                    positions=self.positions,
                    max_length=201,
                ),
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
KINDS = [
    kind
    for values in itertools.product(*OPTIONS.values())
    if _valid(kind := Kind(**dict(zip(OPTIONS, values, strict=True))))
]
OTHER_OPTIONS = {
    "data": ("text", "vectors"),
    "layers": (1, 2),
    "positions": ("sinusoidal", "learned", "rotary"),
    "norm": ("layer", "rms"),
    "norm_first": (True, False),
    "activation": ("relu", "gelu", "swiglu"),
    "kv_heads": (0, 1),
}
PURE = [
    Kind(encoder=encoder, decoder=decoder, **dict(zip(OTHER_OPTIONS, values, strict=True)))
    for encoder, decoder, *values in itertools.product(OTHER_ENCODERS, OTHER_DECODERS, *OTHER_OPTIONS.values())
]


def _mixed() -> list[Kind]:
    """Each pair of a recurrent and another part, text and vectors in turn, and all else by chance."""
    draw, found = random.Random(1), []
    pairs = [*itertools.product(OTHER_ENCODERS, DECODERS), *itertools.product(["recurrent"], OTHER_DECODERS)]
    for number, (encoder, decoder) in enumerate(pairs):
        shape = {name: draw.choice(values) for name, values in OTHER_OPTIONS.items()}
        shape["data"] = ("text", "vectors")[(number + number // 4) % 2]
        if encoder == "recurrent":
            shape |= {"cell": draw.choice(("lstm", "gru")), "directions": draw.choice((1, 2))}
        else:
            shape |= {"decoder_cell": draw.choice(("lstm", "gru"))}
        if decoder in DECODERS and decoder != "plain":
            shape |= {"attention": draw.choice((*ATTENTIONS, "multihead"))}
        found.append(Kind(encoder=encoder, decoder=decoder, **shape))
    return found


MULTIHEAD = [
    Kind(decoder=decoder, cell=cell, decoder_cell=cell, attention="multihead")
    for decoder, cell in (("bahdanau", "lstm"), ("luong", "gru"), ("feeding", "lstm"))
]

GRU = {"cell": "gru", "decoder_cell": "gru"}
DEEP = [  # layer norm, residual sums, GNMT's layers, bridges, attention that knows where it looked
    Kind(decoder="gnmt", layers=3, directions=2, both_ways=1, residual=3),
    Kind(decoder="gnmt", layers=2, layer_norm=True, residual=2, attention="location", bridge="mean", **GRU),
    Kind(decoder="gnmt", data="vectors", attention="general", **GRU),
    Kind(decoder="gnmt", encoder="transformer", layers=2, attention="multihead", bridge="mean"),
    Kind(decoder="bahdanau", layer_norm=True, attention="coverage", bridge="zero"),
    Kind(decoder="bahdanau", layers=3, directions=2, residual=2, attention="location", **GRU),
    Kind(decoder="bahdanau", attention="concat", bridge="zero", **GRU),
    Kind(decoder="luong", layers=2, layer_norm=True, residual=2, attention="coverage", **GRU),
    Kind(decoder="luong", attention="location", bridge="mean"),
    Kind(decoder="feeding", layer_norm=True, attention="general", directions=2, **GRU),
    Kind(decoder="feeding", attention="coverage", bridge="zero", **GRU),
    Kind(decoder="feeding", layers=2, residual=2, attention="dot", bridge="mean", data="vectors"),
    Kind(decoder="plain", layers=3, layer_norm=True, residual=2, bridge="copy"),
    Kind(decoder="plain", layers=2, residual=2, bridge="mean", **GRU),
]


def _covering(kinds: list[Kind]) -> list[Kind]:
    """A few of them in which each pair of values that meets in one of them meets at least once."""

    def meetings(kind: Kind) -> set[tuple]:
        return set(itertools.combinations(vars(kind).items(), 2))

    chosen, open_ = [], set().union(*map(meetings, kinds))
    while open_:
        chosen.append(max(kinds, key=lambda kind: len(meetings(kind) & open_)))
        open_ -= meetings(chosen[-1])
    return chosen


WITH_FACTORS = [
    Kind(factors=True),
    Kind(factors=True, encoder="transformer", decoder="ssru"),
    Kind(factors=True, encoder="convolution", decoder="transformer"),
]
OTHERS = [*_covering(PURE), *_mixed(), *MULTIHEAD, *DEEP, *WITH_FACTORS]
ZOO = {kind.name: kind for kind in [*KINDS, *OTHERS]}
FEW = {kind.name: kind for kind in [*_covering(KINDS), *OTHERS]}


@functools.cache
def model_of(kind: Kind) -> EncoderDecoder:
    """The model of a kind, in evaluation; it is shared, so leave its weights alone (`fresh` gives one to train)."""
    return fresh(kind).eval()


def fresh(kind: Kind, seed: int = 0) -> EncoderDecoder:
    """A model of its own, with weights large enough that gates and attention are neither open, shut nor uniform."""
    torch.manual_seed(seed)
    model = build_model(kind.config(), VOCAB, VOCAB, *(FACTOR_SIZES if kind.factors else ())).double()
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
    if kind.factors:
        words = [
            [[_packed(word, sizes, draw) for word in sentence] for sentence in side]
            for side, sizes in zip(words, FACTOR_SIZES, strict=True)
        ]
        tag = VOCAB * FACTOR_SIZES[0][0] * FACTOR_SIZES[0][1]
        words[0] = [[tag + number % 2, *sentence[1:]] for number, sentence in enumerate(words[0])]
    return token_batch(*words, index=range(len(src)))


def _packed(word: int, sizes: Sequence[int], draw: torch.Generator) -> int:
    """A word with factors drawn by chance."""
    unit = VOCAB
    for size in sizes:
        word, unit = word + unit * int(torch.randint(size, (), generator=draw)), unit * size
    return word


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


def close(left, right, atol=1e-12):
    """The same numbers."""
    torch.testing.assert_close(left, right, rtol=0, atol=atol)


def drawn(*shape, grad=False):
    """Random numbers in float64."""
    return torch.randn(*shape, dtype=torch.float64, requires_grad=grad)


def randomize(module):
    """Draw all weights of a module, and make them float64."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module.double()
