"""Checks across settings: what contradicts itself (problems), and what has no effect (notices)."""

from __future__ import annotations

from collections.abc import Iterator

from itda.config.extras import factor_specs, tag_names
from itda.config.fields import Config, TokenizerConfig
from itda.config.unread import RECURRENT_DECODERS, WITH_HEADS, unread
from itda.errors import UserError


def validate(config: Config, source: str = "recipe") -> Config:
    """Return a config whose settings agree with each other; raise UserError with the first that do not."""
    for problem in problems(config):
        raise UserError(f"{source}: {problem}")
    return config


def problems(config: Config) -> Iterator[str]:
    """Yield each contradiction between settings, with what to do about it."""
    yield from data_problems(config)
    yield from text_problems(config) if config.data.kind == "text" else vector_problems(config)
    yield from model_problems(config)
    yield from train_problems(config)
    yield from objective_problems(config)
    yield from decode_problems(config)


def data_problems(config: Config) -> Iterator[str]:
    """Check the recipe's name and its corpora."""
    name = config.name
    if not name.strip() or name in (".", "..") or any(mark in name for mark in '/\\:*?"<>|'):
        yield f'name is "{name}"; it must be a plain folder name; the place of a run is chosen with --run DIR'
    if not config.data.train:
        yield "data.train is empty; name the training pairs, such as pairs.tsv or make:reverse"
    if config.data.kind == "text":
        for split in ("valid", "test"):
            corpus = getattr(config.data, split)
            if corpus.startswith("make:") and not corpus.partition("/")[2]:
                yield f"data.{split} is {corpus}, which names no split; write {corpus.rstrip('/')}/{split}"
    for split in ("train", "valid", "test"):
        corpus = getattr(config.data, split)
        if "<2" in corpus and not config.data.tags.strip():
            yield f'data.{split} is "{corpus}", with a tag, and data.tags is empty; name the languages in data.tags'
    if config.data.valid:
        return
    if config.train.metric != "loss" or config.train.patience or config.train.schedule == "plateau":
        yield (
            "train.metric, train.patience and the plateau schedule watch validation pairs, and data.valid is empty; "
            "name some, or leave these settings at their defaults"
        )


def text_problems(config: Config) -> Iterator[str]:
    """Check what holds for text alone."""
    tokenizer, model = config.tokenizer, config.model
    if model.tie == "all" and not tokenizer.joint:
        yield 'model.tie = "all" shares one table, and tokenizer.joint is false; set joint = true or tie = "target"'
    for key in ("added", "added_from_data"):
        if getattr(tokenizer, key) and not config.train.start_from:
            yield f"tokenizer.{key} extends that of train.start_from, which is empty; name a run, or remove it"
    if tokenizer.sampling and tokenizer.kind != "sentencepiece":
        yield f'tokenizer.sampling needs tokenizer.kind = "sentencepiece", not "{tokenizer.kind}"; set sampling = 0'
    try:
        factor_specs(config.data.source_factors, "data.source_factors")
        factor_specs(config.data.target_factors, "data.target_factors", summed_only=True)
        tag_names(config.data.tags)
    except UserError as error:
        yield str(error)
    separator = config.data.factor_separator
    if not separator or any(char.isspace() for char in separator):
        yield f'data.factor_separator is "{separator}"; it must be one or more characters that are no spaces, such as |'


def vector_problems(config: Config) -> Iterator[str]:
    """Check what real-valued sequences exclude."""
    if config.tokenizer != TokenizerConfig():
        yield 'tokenizer says how text becomes ids, and data.kind = "vectors" has no text; remove [tokenizer]'
    if config.train.metric != "loss":
        yield f'train.metric is "{config.train.metric}"; for data.kind = "vectors" it must be "loss"'
    if config.train.label_smoothing:
        yield 'train.label_smoothing is for text; with data.kind = "vectors" set it to 0'
    if config.train.batch_unit != "sentences":
        yield 'train.batch_unit counts tokens; with data.kind = "vectors" set it to "sentences"'
    if config.model.tie == "all":
        yield 'model.tie = "all" shares token embeddings, and data.kind = "vectors" has none; set tie = "none"'


def model_problems(config: Config) -> Iterator[str]:
    """Check that the parts of the model fit together."""
    encoder, decoder, width = config.model.encoder, config.model.decoder, config.model.feature_dim
    if width not in (0, config.model.embedding_dim) and config.model.tie != "none":
        yield (
            f"model.feature_dim is {width} and model.embedding_dim {config.model.embedding_dim}; tied embeddings are "
            'the output layer, so both must be equal; set model.tie = "none" for another width'
        )
    if encoder.kind == "recurrent" and encoder.bidirectional and encoder.dim % 2:
        yield f"model.encoder.dim is {encoder.dim}; two directions share it, so it must be even"
    if encoder.kind == "recurrent" and encoder.bidirectional and encoder.bidirectional_layers > encoder.num_layers:
        yield (
            f"model.encoder.bidirectional_layers is {encoder.bidirectional_layers}, and model.encoder.num_layers is "
            f"{encoder.num_layers}; it must be no more than that (0: all)"
        )
    for side, recurrent in (("encoder", encoder.kind == "recurrent"), ("decoder", decoder.kind in RECURRENT_DECODERS)):
        if recurrent and getattr(config.model, side).residual_from == 1:
            yield (
                f"model.{side}.residual_from is 1, and the first layer reads embeddings, which are not added to "
                "states; it must be 2 or more (0: none)"
            )
    if encoder.kind == "convolution" and not encoder.kernel_width % 2:
        yield (
            f"model.encoder.kernel_width is {encoder.kernel_width}; a position stands in the middle of what is seen, "
            f"so it must be odd, such as {encoder.kernel_width + 1}"
        )
    if decoder.kind in RECURRENT_DECODERS:
        yield from recurrent_decoder_problems(config)
    if encoder.kind in WITH_HEADS or decoder.kind in WITH_HEADS:
        yield from transformer_problems(config)


def recurrent_decoder_problems(config: Config) -> Iterator[str]:
    """Check what a recurrent decoder takes over from the encoder."""
    encoder, decoder, attention = config.model.encoder, config.model.decoder, config.model.attention
    if decoder.kind != "plain" and attention.kind == "dot" and encoder.dim != decoder.dim:
        yield (
            f"dot attention multiplies s_t by h_i, and model.decoder.dim is {decoder.dim} but model.encoder.dim is "
            f'{encoder.dim}; make them equal, or use attention.kind = "general"'
        )
    if decoder.kind != "plain" and attention.kind == "multihead" and attention.dim % attention.num_heads:
        yield (
            f"model.attention.dim is {attention.dim}; model.attention.num_heads = {attention.num_heads} heads share "
            "it, so it must be a multiple of that"
        )
    if decoder.kind != "plain" and attention.kind == "location" and not attention.kernel_width % 2:
        yield (
            f"model.attention.kernel_width is {attention.kernel_width}; a position stands in the middle of what is "
            f"seen, so it must be odd, such as {attention.kernel_width + 1}"
        )
    if decoder.kind == "plain" and decoder.bridge == "zero":
        yield (
            'model.decoder.bridge is "zero", and the first state is all that model.decoder.kind = "plain" sees of the '
            'source; use bridge = "dense", or a decoder with attention'
        )
    if decoder.bridge != "copy":
        return
    mine = (decoder.cell, decoder.dim, decoder.num_layers)
    theirs = (encoder.cell, encoder.dim, encoder.num_layers)
    if encoder.kind != "recurrent":
        yield (
            f'model.decoder.bridge = "copy" takes over the states of a recurrent encoder, and model.encoder.kind is '
            f'"{encoder.kind}"; use bridge = "dense"'
        )
    elif encoder.bidirectional or mine != theirs:
        yield (
            'model.decoder.bridge = "copy" needs equal cell, dim and num_layers in encoder and decoder, '
            'and encoder.bidirectional = false; use bridge = "dense" otherwise'
        )


def transformer_problems(config: Config) -> Iterator[str]:
    """Check that heads divide what they share, and that learned positions reach far enough."""
    data, shape = config.data, config.model.transformer
    for side, part, longest in (
        ("encoder", config.model.encoder, data.max_src_length),
        ("decoder", config.model.decoder, data.max_tgt_length),
    ):
        if part.kind not in WITH_HEADS:
            continue
        if part.dim % shape.num_heads:
            yield (
                f"model.{side}.dim is {part.dim}; model.transformer.num_heads = {shape.num_heads} heads share it, "
                "so it must be a multiple of that"
            )
        elif part.kind == "transformer" and shape.positions == "rotary" and part.dim // shape.num_heads % 2:
            yield (
                f"model.{side}.dim / num_heads is {part.dim // shape.num_heads}; rotary positions turn pairs of "
                'numbers, so it must be even; use another num_heads, or positions = "sinusoidal"'
            )
        if config.data.kind == "text" and shape.positions == "learned" and shape.max_length < longest + 1:
            yield (
                f"model.transformer.max_length is {shape.max_length}; the {side} reads up to {longest + 1} positions "
                f"({'data.max_src_length' if side == 'encoder' else 'data.max_tgt_length'} + 1): make it as large"
            )
    if shape.num_kv_heads and shape.num_heads % shape.num_kv_heads:
        yield (
            f"model.transformer.num_kv_heads is {shape.num_kv_heads}; equal groups of num_heads = {shape.num_heads} "
            "share each, so it must divide that (0: one for each head)"
        )


def train_problems(config: Config) -> Iterator[str]:
    """Check budget, optimiser and schedules."""
    train = config.train
    if not (train.updates or train.epochs or train.minutes):
        yield "no budget; set train.updates, train.epochs or train.minutes (or give --updates, --epochs, --minutes)"
    if train.weight_decay and train.optimizer != "adamw":
        yield f'train.weight_decay needs train.optimizer = "adamw", not "{train.optimizer}"; set weight_decay = 0'
    if train.learning_rate == 0:
        yield "train.learning_rate is 0, and nothing would be learned; 0.001 is a usual value"
    if train.schedule == "inverse-sqrt" and not train.warmup:
        yield 'train.schedule = "inverse-sqrt" falls from the end of the warm-up; set train.warmup to 1 or more'
    words_only = {"train.r_drop": train.r_drop, 'train.objective = "minimum_risk"': train.objective == "minimum_risk"}
    for what, asked in words_only.items() if config.data.target_factors.strip() else ():
        if asked:
            yield f"{what} knows words only, and data.target_factors is set; remove one of the two"
    forcing = train.teacher_forcing
    if forcing.schedule != "constant" and forcing.final_ratio > forcing.ratio:
        yield (
            f"train.teacher_forcing.final_ratio is {forcing.final_ratio:g}, above ratio {forcing.ratio:g}; "
            "a schedule falls from ratio to final_ratio"
        )


def objective_problems(config: Config) -> Iterator[str]:
    """Check what is optimised: what it needs, and that no two objectives each want the pass over the target."""
    train, model = config.train, config.model
    guided, forced = train.guided_alignment.weight > 0, (train.teacher_forcing.ratio, train.teacher_forcing.schedule)
    asked = {
        "train.guided_alignment.weight": guided,
        "train.r_drop": train.r_drop > 0,
        "train.teacher_forcing": forced != (1.0, "constant"),
    }
    together = [name for name, on in asked.items() if on]
    if len(together) > 1:
        yield f"{together[0]} and {together[1]} are both on, and each reads the target in a way of its own; choose one"
    if config.data.kind == "vectors":
        for name, on in (*list(asked.items())[:2], ("train.objective", train.objective == "minimum_risk")):
            if on:
                yield f'{name} is for text, and data.kind is "vectors"; leave it at its default'
        if config.data.alignments:
            yield 'data.alignments is for text, and data.kind is "vectors"; remove it'
    if guided and not config.data.alignments:
        yield "train.guided_alignment needs alignments; name their file: data.alignments = FILE, or set its weight to 0"
    if config.data.alignments.startswith("make:") and config.data.alignment_unit != "characters":
        yield (
            f"data.alignments is {config.data.alignments}, whose links count characters; set data.alignment_unit = "
            '"characters"'
        )
    if config.data.alignment_unit == "tokens" and config.data.alignments and config.tokenizer.sampling:
        yield (
            'data.alignment_unit = "tokens" counts tokens that tokenizer.sampling cuts anew each time; count words, or '
            "set sampling = 0"
        )
    if guided and model.decoder.kind == "plain":
        yield (
            'train.guided_alignment teaches attention, and model.decoder.kind = "plain" has none; '
            "set its weight to 0, or choose another decoder"
        )
    if train.r_drop and not (model.dropout or model.transformer.attention_dropout):
        yield "train.r_drop compares two passes with dropout, and model.dropout is 0; raise it, or set r_drop = 0"


def decode_problems(config: Config) -> Iterator[str]:
    """Check that the parts of the search fit together, and fit the model."""
    decode = config.decode
    if decode.beam_size % decode.diverse_groups:
        yield (
            f"decode.diverse_groups is {decode.diverse_groups} and decode.beam_size is {decode.beam_size}; "
            "the groups share the beam evenly: make one a multiple of the other"
        )
    if decode.shortlist == "certified" and decode.beam_size > 1:
        yield (
            f'decode.shortlist = "certified" proves what greedy search writes, and decode.beam_size is '
            f'{decode.beam_size}; set beam_size = 1, or shortlist = "on"'
        )
    if decode.coverage_penalty and config.model.decoder.kind == "plain":
        yield (
            'decode.coverage_penalty reads attention, and model.decoder.kind = "plain" has none; '
            "set coverage_penalty = 0, or choose another decoder"
        )


def notices(config: Config) -> Iterator[str]:
    """Yield each setting that was changed and that nothing reads in this recipe."""
    train = config.train
    yield from unread(config)
    if not config.data.valid and train.patience == 0:
        yield "no data.valid: nothing is measured while training, and the last weights are kept"
    if train.updates and train.warmup > train.updates:
        yield f"train.warmup is {train.warmup}, longer than the whole budget of {train.updates} updates"
