"""From a recipe to a model: the one place that knows what each kind stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import nn

from itda.batch import PAD
from itda.config import Config, DecoderConfig, EncoderConfig, ModelConfig
from itda.config.extras import factor_specs, tag_names
from itda.nn.attention import AdditiveAttention, Attention, ConcatAttention, DotAttention, GeneralAttention
from itda.nn.bridge import Bridge, CopyBridge, DenseBridge, MeanBridge, ZeroBridge
from itda.nn.convolution import ConvolutionEncoder, GatedConvolution
from itda.nn.embedding import Embedder, SequenceDropout, TokenEmbedding, VectorEmbedding
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.entrance import Entrance
from itda.nn.factored import FactoredEmbedding, TaggedEmbedding, WordEmbedding, draw_extras, words_of
from itda.nn.factored_head import FactoredHead
from itda.nn.feedforward import FeedForward
from itda.nn.gnmt import GNMTDecoder
from itda.nn.heads import SoftmaxHead, VectorHead
from itda.nn.initial import VarianceKeeping, draw_matrix, draw_weights
from itda.nn.interface import Decoder, Encoder, Head
from itda.nn.multihead import CrossAttention, MultiHeadAttention, SelfAttention
from itda.nn.normed_cells import NormedGRUCell, NormedLSTMCell
from itda.nn.positions import LearnedPositions, NoPositions, Positions, SinusoidalPositions
from itda.nn.product import Linear
from itda.nn.recurrent import Cell, GRUCell, LSTMCell, RecurrentEncoder
from itda.nn.recurrent_decoder import BahdanauDecoder, LuongDecoder, PlainDecoder, Readout, Stack
from itda.nn.ssru import SSRU
from itda.nn.tracking import CoverageAttention, LocationAttention
from itda.nn.transformer import (
    DecoderLayer,
    EncoderLayer,
    Mixer,
    Residual,
    TransformerDecoder,
    TransformerEncoder,
    make_norm,
)


def build_model(
    config: Config,
    src_vocab: int = 0,
    tgt_vocab: int = 0,
    src_factors: Sequence[int] = (),
    tgt_factors: Sequence[int] = (),
) -> EncoderDecoder:
    """Compose the model of a recipe, with weights drawn from torch's global generator.

    `src_vocab` and `tgt_vocab` count the words, `src_factors` and `tgt_factors` the values of each of their factors
    (`TokenizerPair.sizes` tells all four); they are not read for real-valued sequences.
    """
    vectors = config.data.kind == "vectors"
    src_embed, tgt_embed = _embedders(config, src_vocab, tgt_vocab)
    read_src = src_embed if vectors else _annotated(config, src_embed, src_vocab, src_factors)
    read_tgt: Embedder = WordEmbedding(tgt_embed, tgt_vocab) if tgt_factors else tgt_embed
    encoder = _encoder(config, read_src)
    decoder = _decoder(config, read_tgt)
    head = _head(config, decoder, tgt_vocab, tgt_embed)
    if tgt_factors and isinstance(head, SoftmaxHead) and isinstance(tgt_embed, TokenEmbedding):
        head = FactoredHead(head, tgt_embed.table.weight, decoder.dim, tgt_factors, config.train.factor_weight)
    model = EncoderDecoder(encoder, decoder, head)
    if not vectors:
        _initialize(model)
    return model


def _embedders(config: Config, src_vocab: int, tgt_vocab: int) -> tuple[Embedder, Embedder]:
    if config.data.kind == "vectors":
        return VectorEmbedding(config.data.src_dim), VectorEmbedding(config.data.tgt_dim)
    dim, tie = config.model.embedding_dim, config.model.tie
    tgt_embed = TokenEmbedding(tgt_vocab, dim, PAD)
    if tie == "all":
        assert src_vocab == tgt_vocab, "tie = all needs one vocabulary"
        return tgt_embed, tgt_embed
    return TokenEmbedding(src_vocab, dim, PAD), tgt_embed


def _annotated(config: Config, words: Embedder, vocab_size: int, sizes: Sequence[int]) -> Embedder:
    """What the source says beside its words: factors, then tags, whose ids lie beyond those of all combinations."""
    assert isinstance(words, TokenEmbedding)
    read: TokenEmbedding | FactoredEmbedding = words
    if sizes:
        dims = [spec.dim for spec in factor_specs(config.data.source_factors, "data.source_factors")]
        read = FactoredEmbedding(words, vocab_size, sizes, dims)
    tags = tag_names(config.data.tags)
    return TaggedEmbedding(read, math.prod([vocab_size, *sizes]), len(tags)) if tags else read


def _encoder(config: Config, embed: Embedder) -> Encoder:
    model, encoder = config.model, config.model.encoder
    dim, dropout = encoder.dim, _dropout(model)
    match encoder.kind:
        case "recurrent":
            return _recurrent_encoder(model, embed)
        case "transformer":
            layers = [
                EncoderLayer(_self_attention(model, dim), _feed_forward(model, dim), _residuals(model, dim, 2))
                for _ in range(encoder.num_layers)
            ]
            entrance = _entrance(model, embed, dim, _positions(model, dim))
            return TransformerEncoder(embed, entrance, layers, _last_norm(model, dim), dim)
        case "convolution":
            convolutions = [GatedConvolution(dim, encoder.kernel_width) for _ in range(encoder.num_layers)]
            entrance = _entrance(model, embed, dim, SinusoidalPositions())
            return ConvolutionEncoder(embed, entrance, convolutions, dropout, dim)
    raise AssertionError(encoder.kind)


def _recurrent_encoder(model: ModelConfig, embed: Embedder) -> RecurrentEncoder:
    encoder = model.encoder
    both = (encoder.bidirectional_layers or encoder.num_layers) if encoder.bidirectional else 0
    sizes = [embed.dim] + [encoder.dim] * (encoder.num_layers - 1)  # a layer gives dim numbers, in whatever directions

    def cell(layer: int) -> Cell:
        return _cell(encoder, sizes[layer], encoder.dim // 2 if layer < both else encoder.dim)

    forwards, backwards = [cell(layer) for layer in range(encoder.num_layers)], [cell(layer) for layer in range(both)]
    return RecurrentEncoder(embed, forwards, backwards, _dropout(model), encoder.residual_from)


def _cell(part: EncoderConfig | DecoderConfig, input_dim: int, dim: int) -> Cell:
    if part.layer_norm:
        return {"lstm": NormedLSTMCell, "gru": NormedGRUCell}[part.cell](input_dim, dim)
    return {"lstm": LSTMCell, "gru": GRUCell}[part.cell](input_dim, dim)


def _decoder(config: Config, embed: Embedder) -> Decoder:
    if config.model.decoder.kind in ("transformer", "ssru"):
        return _transformer_decoder(config, embed)
    return _recurrent_decoder(config, embed)


def _transformer_decoder(config: Config, embed: Embedder) -> TransformerDecoder:
    model, dim = config.model, config.model.decoder.dim
    shape, feature_dim = model.transformer, _feature_dim(config)

    def mixer() -> Mixer:
        return SSRU(dim) if model.decoder.kind == "ssru" else _self_attention(model, dim)

    layers = [
        DecoderLayer(
            mixer(),
            CrossAttention(dim, model.encoder.dim, shape.num_heads, _kv_heads(model), shape.attention_dropout),
            _feed_forward(model, dim),
            _residuals(model, dim, 3),
        )
        for _ in range(model.decoder.num_layers)
    ]
    entrance, norm = _entrance(model, embed, dim, _positions(model, dim)), _last_norm(model, dim)
    return TransformerDecoder(embed, entrance, layers, norm, _width(dim, feature_dim), feature_dim)


def _feature_dim(config: Config) -> int:
    """What the head reads: as wide as the embeddings, which may be its weights, unless the recipe says otherwise."""
    return (
        config.model.decoder.dim
        if config.data.kind == "vectors"
        else config.model.feature_dim or config.model.embedding_dim
    )


def _entrance(model: ModelConfig, embed: Embedder, dim: int, positions: Positions) -> Entrance:
    words = words_of(embed)
    scale = words.dim**0.5 if words is not None else 1.0
    return Entrance(scale, _width(embed.dim, dim), positions, _dropout(model))


def _positions(model: ModelConfig, dim: int) -> Positions:
    match model.transformer.positions:
        case "sinusoidal":
            return SinusoidalPositions()
        case "learned":
            return LearnedPositions(model.transformer.max_length, dim)
        case "rotary":
            return NoPositions()
    raise AssertionError(model.transformer.positions)


def _width(from_dim: int, to_dim: int) -> nn.Module:
    """A map where two sizes differ, nothing where they are equal."""
    return nn.Identity() if from_dim == to_dim else Linear(from_dim, to_dim)


def _self_attention(model: ModelConfig, dim: int) -> SelfAttention:
    shape = model.transformer
    rotary = shape.positions == "rotary"
    return SelfAttention(dim, shape.num_heads, _kv_heads(model), rotary, shape.attention_dropout)


def _kv_heads(model: ModelConfig) -> int:
    return model.transformer.num_kv_heads or model.transformer.num_heads


def _feed_forward(model: ModelConfig, dim: int) -> FeedForward:
    return FeedForward(dim, model.transformer.ffn_dim, model.transformer.activation)


def _residuals(model: ModelConfig, dim: int, number: int) -> list[Residual]:
    shape = model.transformer
    return [Residual(make_norm(shape.norm, dim), shape.norm_first, _dropout(model)) for _ in range(number)]


def _last_norm(model: ModelConfig, dim: int) -> nn.Module:
    """After the last layer, where no branch ends with a norm."""
    return make_norm(model.transformer.norm, dim) if model.transformer.norm_first else nn.Identity()


def _recurrent_decoder(config: Config, embed: Embedder) -> Decoder:
    model, decoder = config.model, config.model.decoder
    feature_dim = _feature_dim(config)
    context_dim = model.encoder.dim
    dropout = _dropout(model)

    def stack(input_dim: int, side_dim: int = 0) -> Stack:
        sizes = [input_dim] + [decoder.dim + side_dim] * (decoder.num_layers - 1)
        return Stack([_cell(decoder, size, decoder.dim) for size in sizes], dropout, decoder.residual_from)

    match decoder.kind:
        case "plain":
            readout = None if config.data.kind == "vectors" else Readout(decoder.dim, feature_dim, dropout)
            return PlainDecoder(embed, stack(embed.dim), _bridge(model), readout, dropout)
        case "bahdanau":
            readout = Readout(decoder.dim + context_dim + embed.dim, feature_dim, dropout)
            return BahdanauDecoder(
                embed, stack(embed.dim + context_dim), _attention(model), _bridge(model), readout, dropout
            )
        case "luong":
            readout = Readout(decoder.dim + context_dim, feature_dim, dropout)
            input_dim = embed.dim + (feature_dim if decoder.input_feeding else 0)
            return LuongDecoder(
                embed, stack(input_dim), _attention(model), _bridge(model), readout, dropout, decoder.input_feeding
            )
        case "gnmt":
            readout = Readout(decoder.dim, feature_dim, dropout)
            layers = stack(embed.dim + context_dim, context_dim)
            return GNMTDecoder(embed, layers, _attention(model), _bridge(model), readout, dropout)
    raise AssertionError(decoder.kind)


def _attention(model: ModelConfig) -> Attention:
    query_dim, state_dim, dim = model.decoder.dim, model.encoder.dim, model.attention.dim
    match model.attention.kind:
        case "additive":
            return AdditiveAttention(query_dim, state_dim, dim)
        case "concat":
            return ConcatAttention(query_dim, state_dim, dim)
        case "dot":
            return DotAttention()
        case "general":
            return GeneralAttention(query_dim, state_dim)
        case "multihead":
            return MultiHeadAttention(query_dim, state_dim, dim, model.attention.num_heads)
        case "location":
            shape = model.attention
            return LocationAttention(query_dim, state_dim, dim, shape.filters, shape.kernel_width)
        case "coverage":
            return CoverageAttention(query_dim, state_dim, dim)
    raise AssertionError(model.attention.kind)


def _bridge(model: ModelConfig) -> Bridge:
    parts, decoder = {"lstm": 2, "gru": 1}, model.decoder
    shape = decoder.dim, decoder.num_layers, parts[decoder.cell]
    match decoder.bridge:
        case "dense":
            summary_dim = model.encoder.dim * (parts[model.encoder.cell] if model.encoder.kind == "recurrent" else 1)
            return DenseBridge(summary_dim, *shape)
        case "copy":
            return CopyBridge()
        case "mean":
            return MeanBridge(model.encoder.dim, *shape)
        case "zero":
            return ZeroBridge(*shape)
    raise AssertionError(decoder.bridge)


def _head(config: Config, decoder: Decoder, tgt_vocab: int, tgt_embed: Embedder) -> Head:
    if config.data.kind == "vectors":
        return VectorHead(decoder.dim, config.data.tgt_dim)
    assert isinstance(tgt_embed, TokenEmbedding)
    tied = tgt_embed.table.weight if config.model.tie != "none" else None
    return SoftmaxHead(decoder.dim, tgt_vocab, config.train.label_smoothing, tied)


def _dropout(model: ModelConfig) -> SequenceDropout:
    return SequenceDropout(model.dropout, model.variational)


@torch.no_grad()
def _initialize(model: EncoderDecoder) -> None:
    """Matrices uniform in (-0.1, 0.1), zero biases, open forget gates, unit-variance embeddings (docs/design/0005).

    An embedding that is also the output layer starts as small as the matrices, so that the first logits are small.
    The norms of recurrent cells begin with gains of 1. Transformers and convolutions are drawn anew by a rule of their
    own (docs/design/0008). Real-valued models are left as torch made them, as in the lecture's program.
    """
    head = model.head.words if isinstance(model.head, FactoredHead) else model.head
    output = head.weight if isinstance(head, SoftmaxHead) else None
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.uniform_(-0.1, 0.1)
        else:
            parameter.zero_()
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.reset_parameters()
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            module.bias_ih_l0[module.hidden_size : 2 * module.hidden_size] = 1.0
        if isinstance(module, NormedLSTMCell):
            module.hidden_norm.bias[module.dim : 2 * module.dim] = 1.0
        if isinstance(module, TokenEmbedding):
            if module.table.weight is not output:
                module.table.weight.normal_()
            module.table.weight[PAD] = 0.0
    for part in (model.encoder, model.decoder):
        if isinstance(part, VarianceKeeping):
            draw_weights(part)
        draw_extras(part)
    if isinstance(model.head, FactoredHead):
        for linear in (model.head.hidden, *model.head.outputs):
            draw_matrix(linear)
