"""The rows of the speed table: what is done, by whom, and the bar that itda must clear against the fastest peer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

RNN = {"family": "rnn", "embedding": 256, "dropout": 0.2, "tie": "none"}
TINY = {"family": "transformer", "layers": 4, "dim": 128, "ffn": 256, "heads": 4, "dropout": 0.1, "tie": "all"}
BASE = {"family": "transformer", "layers": 6, "dim": 512, "ffn": 2048, "heads": 8, "dropout": 0.1, "tie": "all"}
CLASSROOM = {"family": "classroom", "embedding": 256, "dim": 512, "dropout": 0.5, "tie": "none"}
CLASSROOM_WORK = {"batch": 128, "batch_unit": "sentences", "warm": 1, "updates": 5}
TORCH_PEERS = ("opennmt", "joeynmt")
TRANSFORMER_PEERS = ("opennmt", "huggingface", "joeynmt")


@dataclass(frozen=True)
class Row:
    """A line of the table. `bar` is the ratio to the fastest peer (0: none), `mark` the share of the limit to pass."""

    name: str
    title: str
    work: str
    peers: tuple[str, ...]
    bar: float
    mark: float | None = None
    model: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    same_model: tuple[str, ...] = ()  # peers that are given itda's own weights, and a bar of their own
    same_bar: float = 0.0
    draws: bool = False  # whether peers draw their batches at random, as their programs do, of as many sentences

    @property
    def unit(self) -> str:
        """Name what is counted in a second."""
        return {"training": "target tokens/s", "decoding": "sentences/s", "lecture": "updates/s"}[self.work]


def _training(name: str, title: str, model: dict[str, Any], bar: float, mark: float, **settings: Any) -> Row:
    peers = TORCH_PEERS if model["family"] == "rnn" else TRANSFORMER_PEERS
    asked = {"batch": 4096, "batch_unit": "tokens", "warm": 2, "updates": 8} | settings
    return Row(f"train-{name}", f"training, {title}", "training", peers, bar, mark, model, asked)


def _rnn(dim: int, attention: str) -> dict[str, Any]:
    return RNN | {"dim": dim, "attention": attention}


def _decoding(name: str, title: str, model: dict[str, Any], beam: int, bar: float, same_bar: float = 0.0) -> Row:
    words = f"{'greedy' if beam == 1 else f'beam {beam}'}, {title}, 20 steps"
    peers = TORCH_PEERS if model["family"] == "rnn" else TRANSFORMER_PEERS
    settings: dict[str, Any] = {"beam": beam, "batches": [64, 200], "passes": 3, "steps": 20, "sentences": 1000}
    if model is BASE:
        settings |= {"batches": [64], "passes": 1, "sentences": 128}
    same = ("ctranslate2",) if same_bar else ()
    return Row(f"decode-{name}-{beam}", words, "decoding", peers, bar, None, model, settings, same, same_bar)


def _trained(name: str, title: str, model: dict[str, Any], beam: int, bar: float) -> Row:
    """Each side decodes with a model that it has trained itself, and stops where that says so."""
    words = f"{'greedy' if beam == 1 else f'beam {beam}'}, {title}, trained, natural stop"
    settings: dict[str, Any] = {"beam": beam, "batches": [64, 200], "passes": 3, "sentences": 1000, "needs": name}
    return Row(f"trained-{name}-{beam}", words, "decoding", TORCH_PEERS, bar, None, model, settings)


# What a side trains where a row needs a trained model: the same batches on all sides.
TRAINING_FIRST = {"batch": 64, "batch_unit": "sentences", "learning_rate": 0.002, "warm": 0}
ROWS = (
    _training("rnn-256-additive", "RNN 256, additive attention, input feeding", _rnn(256, "additive"), 1.8, 0.8),
    _training("rnn-256-general", "RNN 256, general attention, input feeding", _rnn(256, "general"), 1.4, 0.8),
    _training("rnn-512-additive", "RNN 512, additive attention, input feeding", _rnn(512, "additive"), 1.7, 0.8),
    _training("rnn-512-general", "RNN 512, general attention, input feeding", _rnn(512, "general"), 1.2, 0.8),
    _training("tiny", "Transformer tiny", TINY, 1.8, 0.6),
    _training("base", "Transformer base", BASE, 1.15, 0.8, warm=1, updates=1),
    Row("lecture", "the lecture's own program", "lecture", ("classroom",), 3.0, settings={"updates": 1000}),
    Row(
        "classroom", "a classroom GRU with Bahdanau's attention, batches of 128 as each side cuts them", "training",
        ("classroom",), 8.0, None, CLASSROOM, CLASSROOM_WORK, draws=True,
    ),
    Row(
        "classroom-same", "the same, the classroom given our batches of similar length", "training",
        ("classroom",), 0.0, None, CLASSROOM, CLASSROOM_WORK,
    ),
    *(_decoding("rnn-256", "RNN 256", _rnn(256, "additive"), beam, 2.0) for beam in (1, 5)),
    *(_trained("rnn-256", "RNN 256", _rnn(256, "additive"), beam, 2.0) for beam in (1, 5)),
    *(_decoding("tiny", "Transformer tiny", TINY, beam, 2.0, 0.9) for beam in (1, 5)),
    *(_decoding("base", "Transformer base", BASE, beam, 1.5, 0.9) for beam in (1, 5)),
)  # fmt: skip


def chosen(names: list[str]) -> list[Row]:
    """Give the rows of these names, all where none is named; a name may be the beginning of several."""
    found = [row for row in ROWS if not names or any(row.name.startswith(name) for name in names)]
    unknown = [name for name in names if not any(row.name.startswith(name) for row in ROWS)]
    if unknown:
        known = ", ".join(row.name for row in ROWS)
        raise ValueError(f"there is no row {', '.join(unknown)}; the rows are: {known}")
    return found
