"""Which settings are read under which conditions, as a table; a changed one that nothing reads is told."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from itda.config.extras import AUTOMATIC, parts_of
from itda.config.fields import Config
from itda.config.keys import Setting, all_keys, show

WITH_ATTENTION = ("bahdanau", "luong", "gnmt")
RECURRENT_DECODERS = ("plain", *WITH_ATTENTION)
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
    of("model", "feature_dim", "data.kind", "text"),
    of("data", "max_src_length max_tgt_length source_factors target_factors tags", "data.kind", "text"),
    of("tokenizer", "model character_coverage", "tokenizer.kind", "sentencepiece"),
    of("tokenizer", "min_count", "tokenizer.kind", "characters", "words"),
    of("model.encoder", "kernel_width", "model.encoder.kind", "convolution"),
    of(
        "model.encoder",
        "cell bidirectional bidirectional_layers layer_norm residual_from",
        "model.encoder.kind",
        "recurrent",
    ),
    of("model.decoder", "cell layer_norm residual_from bridge", "model.decoder.kind", *RECURRENT_DECODERS),
    of("model.decoder", "input_feeding", "model.decoder.kind", "luong"),
    of("model.attention", "num_heads", "model.attention.kind", "multihead"),
    of("model.attention", "filters kernel_width", "model.attention.kind", "location"),
    of("model.attention", "dim", "model.attention.kind", "additive", "concat", "multihead", "location", "coverage"),
    of("model.transformer", "max_length", "model.transformer.positions", "learned"),
    of("train.minimum_risk", "metric samples reference sharpness likelihood", "train.objective", "minimum_risk"),
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
    if decoder not in WITH_ATTENTION:
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
    encoder, decoder = config.model.encoder, config.model.decoder
    one_way = encoder.kind == "recurrent" and not encoder.bidirectional
    yield ("model.encoder.bidirectional_layers",), "model.encoder.bidirectional = false" if one_way else ""
    for name, part, kinds in (("encoder", encoder, ("recurrent",)), ("decoder", decoder, RECURRENT_DECODERS)):
        short = part.kind in kinds and part.residual_from > part.num_layers
        yield (f"model.{name}.residual_from",), f"model.{name}.num_layers = {part.num_layers}" if short else ""
    data = config.data
    factors = [*parts_of(data.source_factors), *parts_of(data.target_factors)]
    own = any(factor.partition(":")[0] not in AUTOMATIC for factor in factors)
    yield ("data.factor_separator",), "" if own else "no factor stands in the text"
    yield ("train.factor_weight",), "" if data.target_factors.strip() else "data.target_factors is empty"
    aligned, guided = config.data.alignments, config.train.guided_alignment.weight
    yield ("data.alignment_unit",), "" if aligned else "data.alignments is empty"
    yield ("data.alignments",), "" if guided or not aligned else "train.guided_alignment.weight = 0"
    silent = config.train.objective == "minimum_risk" and config.train.minimum_risk.likelihood == 0
    beside = ("train.guided_alignment.weight", "train.r_drop", "train.label_smoothing")
    yield beside, "train.minimum_risk.likelihood = 0, and it belongs to the likelihood" if silent else ""
    made = any("make:" in name for name in (config.data.train, config.data.valid, config.data.test))
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
