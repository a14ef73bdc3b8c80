"""From a recipe to a model: the one place that knows what each kind stands for."""

from __future__ import annotations

import torch
from torch import nn

from itda.batch import PAD
from itda.config import Config, ModelConfig
from itda.nn.attention import AdditiveAttention, Attention, ConcatAttention, DotAttention, GeneralAttention
from itda.nn.convolution import ConvolutionEncoder, GatedConvolution
from itda.nn.embedding import Embedder, SequenceDropout, TokenEmbedding, VectorEmbedding
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.entrance import Entrance
from itda.nn.feedforward import FeedForward
from itda.nn.heads import SoftmaxHead, VectorHead
from itda.nn.initial import VarianceKeeping, draw_weights
from itda.nn.interface import Decoder, Encoder, Head
from itda.nn.multihead import CrossAttention, MultiHeadAttention, SelfAttention
from itda.nn.positions import LearnedPositions, NoPositions, Positions, SinusoidalPositions
from itda.nn.product import Linear
from itda.nn.recurrent import RecurrentEncoder
from itda.nn.recurrent_decoder import (
    BahdanauDecoder,
    Bridge,
    CopyBridge,
    DenseBridge,
    LuongDecoder,
    PlainDecoder,
    Readout,
    Stack,
)
from itda.nn.ssru import SSRU
from itda.nn.transformer import (
    DecoderLayer,
    EncoderLayer,
    Mixer,
    Residual,
    TransformerDecoder,
    TransformerEncoder,
    make_norm,
)


def build_model(config: Config, src_vocab: int = 0, tgt_vocab: int = 0) -> EncoderDecoder:
    """Compose the model of a recipe, with weights drawn from torch's global generator.

    `src_vocab` and `tgt_vocab` are the vocabulary sizes; they are not read for real-valued sequences.
    """
    vectors = config.data.kind == "vectors"
    src_embed, tgt_embed = _embedders(config, src_vocab, tgt_vocab)
    encoder = _encoder(config, src_embed)
    decoder = _decoder(config, tgt_embed)
    model = EncoderDecoder(encoder, decoder, _head(config, decoder, tgt_vocab, tgt_embed))
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


def _encoder(config: Config, embed: Embedder) -> Encoder:
    model, encoder = config.model, config.model.encoder
    dim, dropout = encoder.dim, _dropout(model)
    match encoder.kind:
        case "recurrent":
            return RecurrentEncoder(embed, encoder.cell, dim, encoder.num_layers, encoder.bidirectional, dropout)
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
    """What the head reads: as wide as the embeddings, which may be its weights."""
    return config.model.decoder.dim if config.data.kind == "vectors" else config.model.embedding_dim


def _entrance(model: ModelConfig, embed: Embedder, dim: int, positions: Positions) -> Entrance:
    scale = embed.dim**0.5 if isinstance(embed, TokenEmbedding) else 1.0
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

    def stack(input_dim: int) -> Stack:
        return Stack(decoder.cell, input_dim, decoder.dim, decoder.num_layers, dropout)

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
    raise AssertionError(model.attention.kind)


def _bridge(model: ModelConfig) -> Bridge:
    if model.decoder.bridge == "copy":
        return CopyBridge()
    parts = {"lstm": 2, "gru": 1}
    summary_dim = model.encoder.dim * (parts[model.encoder.cell] if model.encoder.kind == "recurrent" else 1)
    return DenseBridge(summary_dim, model.decoder.dim, model.decoder.num_layers, parts[model.decoder.cell])


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
    Transformers and convolutions are drawn anew by a rule of their own (docs/design/0008). Real-valued models are left
    as torch made them, as in the lecture's program.
    """
    output = model.head.weight if isinstance(model.head, SoftmaxHead) else None
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.uniform_(-0.1, 0.1)
        else:
            parameter.zero_()
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            module.bias_ih_l0[module.hidden_size : 2 * module.hidden_size] = 1.0
        if isinstance(module, TokenEmbedding):
            if module.table.weight is not output:
                module.table.weight.normal_()
            module.table.weight[PAD] = 0.0
    for part in (model.encoder, model.decoder):
        if isinstance(part, VarianceKeeping):
            draw_weights(part)
