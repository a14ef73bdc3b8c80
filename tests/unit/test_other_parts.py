"""SSRU, convolutions and several heads for a recurrent decoder, against formulas written out by hand."""

import math

import pytest
import torch
from torch import nn
from zoo import close, drawn, randomize

from itda.batch import Tokens, Vectors
from itda.build import build_model
from itda.config import AttentionConfig, Config, DecoderConfig, EncoderConfig, ModelConfig, TransformerConfig, parse
from itda.nn.convolution import ConvolutionEncoder, GatedConvolution
from itda.nn.embedding import SequenceDropout, VectorEmbedding
from itda.nn.entrance import Entrance
from itda.nn.multihead import MultiHeadAttention
from itda.nn.positions import NoPositions
from itda.nn.scan import gated_scan
from itda.nn.ssru import SSRU

NO_DROPOUT = SequenceDropout(0.0, False)
MASK = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]


def slow_scan(gates, inputs):
    states, now = [], torch.zeros_like(inputs[:, 0])
    for gate, value in zip(gates.unbind(1), inputs.unbind(1), strict=True):
        now = gate * now + value
        states.append(now)
    return torch.stack(states, 1)


@pytest.mark.parametrize("time", [1, 2, 7])
def test_the_scan_is_the_loop_in_values_and_gradients(time):
    torch.manual_seed(1)
    gates, inputs = torch.rand(3, time, 4, dtype=torch.float64, requires_grad=True), drawn(3, time, 4, grad=True)
    quick, slow = gated_scan(gates, inputs), slow_scan(gates, inputs)
    close(quick, slow)
    weight = drawn(3, time, 4)
    for one, other in zip(
        torch.autograd.grad((quick * weight).sum(), [gates, inputs]),
        torch.autograd.grad((slow * weight).sum(), [gates, inputs]),
        strict=True,
    ):
        close(one, other)
    assert torch.autograd.gradcheck(gated_scan, (gates, inputs))
    turned = inputs.transpose(0, 1).contiguous().transpose(0, 1)  # laid out in another order
    (grad,) = torch.autograd.grad(gated_scan(gates, turned).transpose(0, 1).square().sum(), inputs)
    (expected,) = torch.autograd.grad(slow_scan(gates, inputs).square().sum(), inputs)
    close(grad, expected)


@torch.no_grad()
def test_the_simple_recurrence_is_the_papers_formula():
    """f = sigmoid(W_f x + b_f), c = f c + (1 - f) W x, h = relu(c), for a whole sequence and step by step."""
    torch.manual_seed(2)
    part, values = randomize(SSRU(4)), drawn(2, 6, 4)
    forget_map, input_map = part.map.weight.chunk(2)
    cell, cache, expected = torch.zeros(2, 4, dtype=torch.float64), part.start(values[:, :1]), []
    for x in values.unbind(1):
        f = 1 / (1 + (-(x @ forget_map.T + part.forget_bias)).exp())
        cell = f * cell + (1 - f) * (x @ input_map.T)
        expected.append(cell.clamp(min=0))
        answer, cache = part.step(x[:, None], cache)
        close(answer[:, 0], expected[-1])
        close(cache, cell)
    close(part(values), torch.stack(expected, 1))


@torch.no_grad()
@pytest.mark.parametrize("width", [1, 3, 5])
def test_a_gated_convolution_is_torchs(width):
    torch.manual_seed(3)
    part, values = randomize(GatedConvolution(4, width)), drawn(3, 5, 4)
    theirs = nn.Conv1d(4, 8, width, padding=width // 2).double()
    theirs.weight.copy_(part.map.weight.unflatten(1, (width, 4)).transpose(1, 2))
    theirs.bias.copy_(part.map.bias)
    left, right = theirs(values.mT).mT.chunk(2, dim=-1)
    close(part(values), left * torch.sigmoid(right))


@torch.no_grad()
def test_a_convolution_reads_zeros_beyond_the_end_and_nothing_under_the_mask():
    torch.manual_seed(4)
    entrance = Entrance(1.0, nn.Linear(3, 4), NoPositions(), NO_DROPOUT)
    layers = [GatedConvolution(4, 3) for _ in range(2)]
    encoder = randomize(ConvolutionEncoder(VectorEmbedding(3), entrance, layers, NO_DROPOUT, 4))
    values = drawn(3, 5, 3)
    memory = encoder(Vectors(values.masked_fill(~MASK[..., None], math.nan), MASK))
    for row, length in enumerate((5, 2, 3)):
        states = entrance.width(values[row : row + 1, :length])
        for layer in layers:
            states = (states + layer(states)) / math.sqrt(2)
        close(memory.states[row, :length], states[0])
        close(memory.summary[0][0][row], states[0].mean(0))
    assert not memory.states[~MASK].any()


@torch.no_grad()
def test_several_heads_for_a_recurrent_decoder_are_the_formula():
    torch.manual_seed(5)
    attention, query, states = randomize(MultiHeadAttention(4, 6, 8, 2)), drawn(3, 2, 4), drawn(3, 5, 6)
    context, weights = attention(query, attention.keys(states), states, MASK)
    mapped = attention.query_map(query)
    key, value = attention.memory_map(states).chunk(2, dim=-1)
    for row, length in enumerate((5, 2, 3)):
        for number in range(2):
            answers, shares = [], []
            for head in (slice(0, 4), slice(4, 8)):
                scores = key[row, :length, head] @ mapped[row, number, head] / 2
                shares.append(scores.exp() / scores.exp().sum())
                answers.append(shares[-1] @ value[row, :length, head])
            close(weights[row, number, :length], (shares[0] + shares[1]) / 2)
            assert not weights[row, number, length:].any()
            close(context[row, number], attention.output(torch.cat(answers)))


@torch.no_grad()
@pytest.mark.parametrize("encoder", ["transformer", "convolution"])
@pytest.mark.parametrize("decoder", ["plain", "bahdanau", "transformer", "ssru"])
def test_models_begin_lively(encoder, decoder):
    """Neither dead nor wild after several layers: states have the size that what reads them is made for."""
    torch.manual_seed(6)
    parts = ModelConfig(
        embedding_dim=64,
        encoder=EncoderConfig(kind=encoder, dim=64, num_layers=8),
        decoder=DecoderConfig(kind=decoder, dim=64, num_layers=8 if decoder in ("transformer", "ssru") else 2),
        attention=AttentionConfig(dim=32),
        transformer=TransformerConfig(ffn_dim=128),
    )
    model = build_model(Config(model=parts), 50, 50)
    ids = torch.randint(4, 50, (8, 9))
    side = Tokens(ids, torch.ones_like(ids, dtype=torch.bool))
    memory = model.encode(side)
    assert 0.5 < float(memory.states.std()) < 2.0
    assert float(memory.states.std(dim=1).mean()) > 0.3, "positions are told apart"
    features = model.decoder(side, memory).features
    assert 0.01 < float(features.std()) < 2.0
    assert float(features.std(dim=1).mean()) > 0.001


@pytest.mark.parametrize("kind", ["plain", "bahdanau", "luong", "transformer"])
def test_what_the_output_layer_reads_may_be_wider_than_an_embedding(kind: str) -> None:
    config = parse(f'model = {{embedding_dim = 8, feature_dim = 24, tie = "none", decoder = {{kind = "{kind}"}}}}')
    model = build_model(config, 20, 20)
    assert model.decoder.dim == 24
    assert model.head.weight.shape == (20, 24)
