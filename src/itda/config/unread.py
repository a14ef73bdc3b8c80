"""Which settings are read under which conditions, as a table; a changed one that nothing reads is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from itda.config.fields import Config
from itda.config.keys import Setting, all_keys, show

RECURRENT_DECODERS = ("plain", "bahdanau", "luong")
WITH_HEADS = ("transformer", "ssru")


@dataclass(frozen=True)
class Readers:
    """`keys` (settings, or a section as one) are read where the setting `where` has one of `values`."""

    keys: tuple[str, ...]
    where: str
    values: tuple[Any, ...]

    def why_not(self, config: Config) -> str:
        """Say why nothing reads them; empty where something does."""
        value = value_of(config, self.where)
        return "" if value in self.values else f"{self.where} = {show(value)}"


def of(parent: str, keys: str, where: str, *values: Any) -> Readers:
    """Write a line of the table: `keys` of one section, with spaces between."""
    return Readers(tuple(f"{parent}.{key}" for key in keys.split()), where, values)


TABLE = (
    of("data", "length src_dim tgt_dim", "data.kind", "vectors"),
    of("data", "max_src_length max_tgt_length", "data.kind", "text"),
    of("tokenizer", "model character_coverage", "tokenizer.kind", "sentencepiece"),
    of("tokenizer", "min_count", "tokenizer.kind", "characters", "words"),
    of("model.encoder", "kernel_width", "model.encoder.kind", "convolution"),
    of("model.encoder", "cell bidirectional", "model.encoder.kind", "recurrent"),
    of("model.decoder", "cell bridge", "model.decoder.kind", *RECURRENT_DECODERS),
    of("model.decoder", "input_feeding", "model.decoder.kind", "luong"),
    of("model.attention", "num_heads", "model.attention.kind", "multihead"),
    of("model.attention", "dim", "model.attention.kind", "additive", "concat", "multihead"),
    of("model.transformer", "max_length", "model.transformer.positions", "learned"),
    of("train", "final_scale", "train.schedule", "cosine"),
    of("train", "plateau_factor plateau_patience", "train.schedule", "plateau"),
    of("train", "metric_sentences", "train.metric", "bleu", "chrf", "exact_match"),
    of(
        "train.teacher_forcing",
        "final_ratio decay_updates",
        "train.teacher_forcing.schedule",
        "linear",
        "inverse-sigmoid",
        "exponential",
    ),
    of("decode", "diversity", "decode.diverse_groups", *range(2, 1001)),
)


def unread(config: Config) -> Iterator[str]:
    """Yield a line for each setting that differs from its default and that this recipe leaves without a reader."""
    sections = tuple(whole_sections(config))
    for section, why in sections:
        if any(changed(config, key) for key in all_keys() if key.startswith(section + ".")):
            yield f"{section} has no effect: {why}"
    for keys, why in [*((line.keys, line.why_not(config)) for line in TABLE), *several(config)]:
        for key in keys if why else ():
            if changed(config, key) and not any(key.startswith(section + ".") for section, _ in sections):
                yield f"{key} has no effect: {why}"


def whole_sections(config: Config) -> Iterator[tuple[str, str]]:
    """Yield the sections that nothing reads, with why."""
    encoder, decoder = config.model.encoder.kind, config.model.decoder.kind
    if decoder not in ("bahdanau", "luong"):
        why = "has no attention" if decoder == "plain" else "has its own attention"
        yield "model.attention", f'model.decoder.kind = "{decoder}" {why}'
    if encoder not in WITH_HEADS and decoder not in WITH_HEADS:
        yield "model.transformer", "neither encoder nor decoder is a Transformer"


def several(config: Config) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield what depends on more than one setting, or on more than a choice."""
    forcing = config.train.teacher_forcing
    always = forcing.schedule == "constant" and forcing.ratio == 1
    coins = tuple(f"train.teacher_forcing.{name}" for name in ("granularity", "form"))
    yield coins, "train.teacher_forcing.ratio = 1, so no coin is tossed" if always else ""
    made = any(name.startswith("make:") for name in (config.data.train, config.data.valid, config.data.test))
    yield ("data.seed", "data.pairs"), "" if made else "no corpus of this recipe is generated"


def changed(config: Config, key: str) -> bool:
    """Say whether a setting differs from its default."""
    setting = all_keys()[key]
    return isinstance(setting, Setting) and value_of(config, key) != setting.default


def changed_keys(config: Config) -> set[str]:
    """Name the settings that differ from their defaults."""
    return {key for key in all_keys() if changed(config, key)}


def value_of(config: Config, key: str) -> Any:
    """Look a setting up by its full key."""
    value: Any = config
    for name in key.split("."):
        value = getattr(value, name)
    return value
