"""The loop over time of a decoder with attention, as one function with its own backward.

What a step needs of the whole target or the whole source is mapped before the loop, in one product each: the
embeddings by the cell's input map, the encoder states by whatever reads c_t. A map of c_t = sum_i alpha_{t,i} h_i is
the same mix of mapped h_i, so that no step has a product for it (and as alpha sums to 1, a bias may be in the values).
Weight gradients are one product each after the loop. The slow twin is the decoder's own `step`.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from itda.nn.fused.cells import tanh_backward, tanh_of, trace_cell
from itda.nn.fused.scores import AdditiveTrace, ProductTrace, ScoreTrace, dots
from itda.nn.fused.steps import over_time, step_products

Grads = tuple[Tensor | None, ...]


def _trace_scores(
    steps: int, keys: Tensor, mask: Tensor, query_map: Tensor | None, energy: Tensor | None
) -> ScoreTrace:
    if query_map is None or energy is None:
        return ProductTrace(steps, keys, mask)
    return AdditiveTrace(steps, keys, mask, query_map, energy)


def _given(kept: Tensor) -> Tensor:
    """Another tensor on the same numbers: an output that its own backward kept would be a cycle, freed late."""
    return kept.view_as(kept)


class _Bahdanau(torch.autograd.Function):
    """Attend with s_{t-1}, then s_t = f(s_{t-1}, y_{t-1}, c_t)."""

    @staticmethod
    def forward(
        ctx: Any, keep: bool, inputs: Tensor, weight: Tensor, bias: Tensor, mask: Tensor, keys: Tensor, values: Tensor,
        query_map: Tensor | None, energy: Tensor | None, *first: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        steps = len(inputs)
        cell = trace_cell(steps, first, weight, bias)
        scores = _trace_scores(steps, keys, mask, query_map, energy)
        for t in range(steps):
            alpha = scores.look(t, cell.hidden[t])
            torch.baddbmm(inputs[t][:, None], alpha[:, None], values, out=cell.act[t][:, None])
            cell.advance(t)
        if keep:
            ctx.cell, ctx.scores = cell, scores
            ctx.save_for_backward(values)
        return _given(cell.hidden[1:]), _given(scores.alphas.alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_hiddens: Tensor, d_alphas: Tensor) -> Grads:
        cell, scores, (values,) = ctx.cell, ctx.scores, ctx.saved_tensors
        cell.start_backward()
        scores.start_backward()
        d_hidden = torch.zeros_like(d_hiddens[0])
        for t in reversed(range(len(d_hiddens))):
            d_hidden = cell.retreat(t, d_hidden.add_(d_hiddens[t]))
            d_alpha = dots(values, cell.d_act[t]).add_(d_alphas[t])
            d_hidden += scores.unlook(t, d_alpha)
        d_weight, d_bias = cell.weight_gradients()
        d_keys, d_query_map, d_energy = scores.gradients(cell.hidden[:-1])
        d_values = torch.bmm(scores.alphas.alpha.permute(1, 2, 0), cell.d_act.transpose(0, 1))
        return (
            None, cell.hand_over(), d_weight, d_bias, None, d_keys, d_values, d_query_map, d_energy,
            *cell.first_gradients(d_hidden),
        )  # fmt: skip


class _Feeding(torch.autograd.Function):
    """s_t = f(s_{t-1}, [y_{t-1}; feed_{t-1}]), attend with s_t, then feed_t = tanh(W [s_t; c_t]), dropped."""

    @staticmethod
    def forward(
        ctx: Any, keep: bool, inputs: Tensor, feed_map: Tensor, weight: Tensor, bias: Tensor, mask: Tensor,
        keys: Tensor, values: Tensor, query_map: Tensor | None, energy: Tensor | None, read_map: Tensor,
        drop: Tensor | None, *first: Tensor,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        steps, rows, _ = inputs.shape
        cell = trace_cell(steps, first, weight, bias)
        scores = _trace_scores(steps, keys, mask, query_map, energy)
        feed, read = step_products(feed_map, rows), step_products(read_map, rows)
        tanh = inputs.new_empty(steps, rows, len(read_map))
        feeds = tanh if drop is None else torch.empty_like(tanh)
        for t in range(steps):
            if t:
                feed.write(feeds[t - 1], inputs[t], cell.act[t])
            else:
                cell.act[t] = inputs[t]
            hidden = cell.advance(t)
            alpha = scores.look(t, hidden)
            torch.bmm(alpha[:, None], values, out=tanh[t][:, None])
            tanh_of(read.add(hidden, tanh[t]), tanh[t])
            if drop is not None:
                torch.mul(tanh[t], drop[t], out=feeds[t])
        if keep:
            ctx.cell, ctx.scores, ctx.tanh, ctx.feeds, ctx.products = cell, scores, tanh, feeds, (feed, read)
            ctx.save_for_backward(values, drop)
        return _given(feeds), _given(scores.alphas.alpha)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_feeds: Tensor, d_alphas: Tensor) -> Grads:
        cell, scores, (feed, read), (values, drop) = ctx.cell, ctx.scores, ctx.products, ctx.saved_tensors
        cell.start_backward()
        scores.start_backward()
        d_read = torch.empty_like(ctx.tanh)
        d_hidden, d_fed = torch.zeros_like(cell.hidden[0]), None
        for t in reversed(range(len(d_read))):
            d_feed = d_feeds[t] if d_fed is None else d_fed.add_(d_feeds[t])
            d_feed = d_feed if drop is None else d_feed * drop[t]
            tanh_backward.grad_input(d_feed, ctx.tanh[t], grad_input=d_read[t])
            d_alpha = dots(values, d_read[t]).add_(d_alphas[t])
            read.add_back(d_read[t], d_hidden).add_(scores.unlook(t, d_alpha))
            d_hidden = cell.retreat(t, d_hidden)
            d_fed = feed.back(cell.d_act[t])
        d_weight, d_bias = cell.weight_gradients()
        d_keys, d_query_map, d_energy = scores.gradients(cell.hidden[1:])
        d_values = torch.bmm(scores.alphas.alpha.permute(1, 2, 0), d_read.transpose(0, 1))
        return (
            None, cell.hand_over(), over_time(cell.d_act[1:], ctx.feeds[:-1]), d_weight, d_bias, None, d_keys, d_values,
            d_query_map, d_energy, over_time(d_read, cell.hidden[1:]), None, *cell.first_gradients(d_hidden),
        )  # fmt: skip


def bahdanau_loop(
    inputs: Float[Tensor, "time rows gates"],
    first: tuple[Float[Tensor, "rows dim"], ...],
    recurrent: tuple[Float[Tensor, "gates dim"], Float[Tensor, " gates"]],
    keys: Float[Tensor, "rows src key"],
    values: Float[Tensor, "rows src gates"],
    mask: Bool[Tensor, "rows src"],
    terms: tuple[Tensor | None, Tensor | None],
) -> tuple[Float[Tensor, "time rows dim"], Float[Tensor, "time rows src"]]:
    """Run s_t = f(s_{t-1}, y_{t-1}, c_t) over time: all s_t and alpha_t (Bahdanau et al. 2015).

    `inputs` and `values` are the embeddings and the encoder states, each mapped by its part of the cell's input map;
    `terms` is the query map and the energy vector of an additive score, or (None, None) for a product. An LSTM's bias
    belongs into `inputs`. Second derivatives are not offered.
    """
    keep, weight = torch.is_grad_enabled(), recurrent[0]
    with torch.autocast(weight.device.type, enabled=False):
        inputs, keys, values, *first = _like(weight, inputs, keys, values, *first)
        hidden, alpha = _Bahdanau.apply(keep, inputs, *recurrent, mask, keys, values, *terms, *first)
    return hidden, alpha


def feeding_loop(
    inputs: Float[Tensor, "time rows gates"],
    first: tuple[Float[Tensor, "rows dim"], ...],
    recurrent: tuple[Float[Tensor, "gates dim"], Float[Tensor, " gates"]],
    keys: Float[Tensor, "rows src key"],
    values: Float[Tensor, "rows src features"],
    mask: Bool[Tensor, "rows src"],
    terms: tuple[Tensor | None, Tensor | None],
    feed_map: Float[Tensor, "gates features"],
    read_map: Float[Tensor, "features dim"],
    drop: Float[Tensor, "time rows features"] | None,
) -> tuple[Float[Tensor, "time rows features"], Float[Tensor, "time rows src"]]:
    """Run Luong's decoder with input feeding over time: all attentional vectors and alpha_t (Luong et al. 2015).

    `values` are the encoder states mapped by their part of the readout, with its bias; `read_map` is its part for s_t,
    `feed_map` the cell's input map of the attentional vector; `drop` holds scaled keep masks. For the rest, see
    `bahdanau_loop`.
    """
    keep, weight = torch.is_grad_enabled(), recurrent[0]
    with torch.autocast(weight.device.type, enabled=False):
        inputs, keys, values, *first = _like(weight, inputs, keys, values, *first)
        features, alpha = _Feeding.apply(
            keep, inputs, feed_map, *recurrent, mask, keys, values, *terms, read_map, drop, *first
        )
    return features, alpha


def _like(weight: Tensor, *tensors: Tensor) -> list[Tensor]:
    """Take what was computed under autocast back to the precision of the weights: the loop runs in theirs."""
    return [tensor.to(weight.dtype) for tensor in tensors]
