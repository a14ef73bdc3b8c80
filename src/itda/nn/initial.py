"""How the weights of Transformers, convolutions and the like begin (docs/design/0008)."""

from __future__ import annotations

import math

import torch
from torch import nn

from itda.batch import PAD
from itda.nn.convolution import ConvolutionEncoder, GatedConvolution
from itda.nn.embedding import TokenEmbedding
from itda.nn.positions import LearnedPositions
from itda.nn.ssru import SSRU
from itda.nn.transformer import TransformerDecoder, TransformerEncoder

VarianceKeeping = TransformerEncoder | TransformerDecoder | ConvolutionEncoder


@torch.no_grad()
def draw_weights(part: VarianceKeeping) -> None:
    """Keep variances: each matrix gives numbers about as large as those it reads.

    Embeddings have the variance 1 / dim: 1 where they are scaled at the entrance, and logits of about that size where
    they are the output layer too.
    """
    for module in part.modules():
        match module:
            case nn.Linear():
                draw_matrix(module)
            case nn.LayerNorm() | nn.RMSNorm():
                module.reset_parameters()
            case LearnedPositions():
                module.table.normal_(std=module.table.shape[1] ** -0.5)
            case TokenEmbedding():
                module.table.weight.normal_(std=module.dim**-0.5)
                module.table.weight[PAD] = 0.0
            case SSRU():
                module.forget_bias.fill_(1.0)  # open forget gates, as an LSTM's
    for module in part.modules():
        if isinstance(module, GatedConvolution):
            module.map.weight.mul_(math.sqrt(2))  # its gate lets about a third of the variance pass


def draw_matrix(linear: nn.Linear) -> None:
    """Uniform with variance 1 / inputs (Xavier's for a square matrix), and no bias."""
    bound = math.sqrt(3 / linear.in_features)
    linear.weight.uniform_(-bound, bound)
    if linear.bias is not None:
        linear.bias.zero_()
