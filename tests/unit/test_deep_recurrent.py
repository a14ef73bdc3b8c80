"""Layer-normalised cells, deep stacks, GNMT's layers and attention that tracks itself, against formulas by hand."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from zoo import VOCAB, Kind, batch_of, close, drawn, fresh, model_of, randomize

from itda.batch import Vectors
from itda.build import build_model
from itda.nn.embedding import SequenceDropout, VectorEmbedding
from itda.nn.normed_cells import NormedGRUCell, NormedLSTMCell
from itda.nn.recurrent import GRUCell, LSTMCell, RecurrentEncoder, first_state
from itda.nn.recurrent_decoder import Stack
from itda.nn.tracking import CoverageAttention, LocationAttention

NO_DROPOUT = SequenceDropout(0.0, False)
MASK = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
normed = pytest.mark.parametrize("cell", [NormedLSTMCell, NormedGRUCell])


def norm(values, module):
    """gain * (a - mean) / sqrt(variance + eps) + bias, written out."""
    centred = values - values.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + module.eps).sqrt() * module.weight
    return scaled if module.bias is None else scaled + module.bias


def lstm_by_hand(cell, x, hidden, memory):
    """Equations 20 to 22 of Ba et al. 2016."""
    gates = norm(hidden @ cell.hidden_map.weight.T, cell.hidden_norm)
    gates = gates + norm(x @ cell.input_map.weight.T, cell.input_norm)
    i, f, g, o = gates.chunk(4, dim=-1)
    memory = f.sigmoid() * memory + i.sigmoid() * g.tanh()
    return o.sigmoid() * norm(memory, cell.cell_norm).tanh(), memory


def gru_by_hand(cell, x, hidden):
    """Equations 27 to 29, with torch's z."""
    size = cell.dim
    weights = [module.weight.split([2 * size, size]) for module in (cell.input_map, cell.hidden_map)]
    gates = norm(x @ weights[0][0].T, cell.input_gate_norm) + norm(hidden @ weights[1][0].T, cell.hidden_gate_norm)
    r, z = gates.sigmoid().chunk(2, dim=-1)
    new = norm(x @ weights[0][1].T, cell.input_new_norm) + r * norm(hidden @ weights[1][1].T, cell.hidden_new_norm)
    return ((1 - z) * new.tanh() + z * hidden,)


@normed
@torch.no_grad()
def test_a_normed_cell_is_the_papers_formula(cell):
    """A step; a step whose input comes in two parts; and a sequence, with its state before the padding."""
    torch.manual_seed(1)
    cell, values = randomize(cell(3, 4)), drawn(3, 5, 3)
    by_hand = lstm_by_hand if cell.parts == 2 else gru_by_hand
    state = tuple(drawn(3, 4) for _ in range(cell.parts))
    states, final = cell.sequence(values, state, MASK)
    for t, x in enumerate(values.unbind(1)):
        expected = by_hand(cell, x, *state)
        mapped = cell.inputs(x[:, :2]) + x[:, 2:] @ cell.input_weight[:, 2:].T
        for inputs in (cell.inputs(x), mapped):
            for one, other in zip(cell.step(inputs, state), expected, strict=True):
                close(one, other)
        close(states[:, t], expected[0])
        for row, length in enumerate(MASK.sum(1).tolist()):
            if t == length - 1:
                for one, other in zip(final, expected, strict=True):
                    close(one[row], other[row])
        state = expected


@normed
def test_a_normed_cell_knows_only_its_own_row_and_scale(cell):
    """What the norm is for: an input ten times as large gives the same gates; and a row has no neighbours."""
    torch.manual_seed(2)
    cell = randomize(cell(3, 4))
    x, state = drawn(2, 3, grad=True), tuple(torch.zeros(2, 4).double() for _ in range(cell.parts))
    hidden = cell.step(cell.inputs(x), state)[0]
    (grad,) = torch.autograd.grad(hidden[0].sum(), x)
    assert grad[0].any()
    assert not grad[1].any()
    torch.testing.assert_close(cell.step(cell.inputs(10 * x), state)[0], hidden, rtol=0, atol=1e-4)


@torch.no_grad()
def test_normed_cells_begin_with_gains_of_one_and_open_forget_gates():
    model = build_model(Kind(layer_norm=True, directions=2).config(), VOCAB, VOCAB)
    cells = [module for module in model.modules() if isinstance(module, NormedLSTMCell)]
    assert len(cells) == 3
    for cell in cells:
        assert cell.hidden_norm.bias.tolist() == [0.0] * cell.dim + [1.0] * cell.dim + [0.0] * 2 * cell.dim
        for module in (cell.input_norm, cell.hidden_norm, cell.cell_norm):
            assert (module.weight == 1).all()
    assert not any(isinstance(module, nn.LayerNorm) for module in build_model(Kind().config(), VOCAB, VOCAB).modules())


@torch.no_grad()
@pytest.mark.parametrize("residual", [0, 2, 3, 4])
def test_residual_sums_begin_where_they_are_told_to(residual):
    """y^k = s^k + y^{k-1} from the layer that is named, counted from 1; `sequence`, `step` and by hand."""
    torch.manual_seed(3)
    stack = randomize(Stack([GRUCell(3 if not layer else 4, 4) for layer in range(4)], NO_DROPOUT, residual))
    values, mask = drawn(2, 3, 3), torch.ones(2, 3, dtype=torch.bool)
    state = tuple((drawn(2, 4),) for _ in range(4))
    now, read = state, values
    for layer, cell in enumerate(stack.cells):
        states, _ = cell.sequence(read, state[layer], mask)
        read = states + read if residual and layer >= residual - 1 else states
    close(stack.sequence(values, state), read)
    for t, x in enumerate(values.unbind(1)):
        now = stack.step(stack.cells[0].inputs(x), now)
        close(stack.output(now), read[:, t])


@torch.no_grad()
def test_gnmts_encoder_reads_backwards_in_its_first_layer_alone():
    torch.manual_seed(4)
    forwards = [LSTMCell(3, 2), LSTMCell(4, 4), LSTMCell(4, 4)]
    encoder = randomize(RecurrentEncoder(VectorEmbedding(3), forwards, [LSTMCell(3, 2)], NO_DROPOUT, 3))
    memory, values = encoder(Vectors(side := drawn(3, 5, 3), MASK)), side
    for row, length in enumerate(MASK.sum(1).tolist()):
        read = values[row : row + 1, :length]
        whole = torch.ones(1, length, dtype=torch.bool)
        first = [forwards[0].sequence(read, first_state(forwards[0], read), whole)]
        backward = encoder.backward_cells[0]
        first.append(backward.sequence(read.flip(1), first_state(backward, read), whole))
        bottom = torch.cat([first[0][0], first[1][0].flip(1)], -1)
        second, _ = forwards[1].sequence(bottom, first_state(forwards[1], bottom), whole)
        third, last = forwards[2].sequence(second, first_state(forwards[2], second), whole)
        close(memory.states[row, :length], (third + second)[0])
        for part in range(2):
            close(memory.summary[0][part][row], torch.cat([first[0][1][part], first[1][1][part]], -1)[0])
            close(memory.summary[2][part][row], last[part][0])


@torch.no_grad()
def test_a_step_of_gnmts_decoder_is_the_papers():
    """c_t from s^1_{t-1}; each layer reads [below; c_t]; sums from the third; the readout sees the top."""
    kind = Kind(decoder="gnmt", layers=3, residual=3)
    model, batch = model_of(kind), batch_of(kind)
    decoder, memory = model.decoder, model.encode(batch.src)
    _, state = decoder.step(batch.tgt_in.ids[:, 0], decoder.start(memory))
    previous = torch.tensor([4, 7, 9])
    decoded, after = decoder.step(previous, state)
    layers, _ = state.cache
    context, alpha = decoder.attention(layers[0][0][:, None], state.keys, memory.states, memory.mask)
    close(decoded.weights, alpha)
    close(decoded.contexts, context)
    below, above = decoder.embed.table.weight[previous], []
    for cell, old, new in zip(decoder.stack.cells, layers, after.cache[0], strict=True):
        theirs = nn.LSTMCell(cell.kernel.input_size, cell.dim).double()
        theirs.load_state_dict({name.removesuffix("_l0"): value for name, value in cell.kernel.state_dict().items()})
        hidden, memory_cell = theirs(torch.cat([below, context[:, 0]], -1), old)
        close(new[0], hidden)
        close(new[1], memory_cell)
        below = hidden + below if len(above) == 2 else hidden
        above.append(below)
    close(decoded.features[:, 0], torch.tanh(below @ decoder.readout.map.weight.T + decoder.readout.map.bias))


# --- attention that knows where it looked ------------------------------------------------------------------------


@torch.no_grad()
def test_location_features_are_the_papers():
    """e_i = v^T tanh(W s + U h_i + V f_i), f_i = sum_k F_k alpha_{i+k}, with zeros beyond the ends."""
    torch.manual_seed(5)
    attention, query, states = randomize(LocationAttention(4, 6, 7, 2, 3)), drawn(3, 2, 4), drawn(3, 5, 6)
    past = torch.rand(3, 2, 5, dtype=torch.float64) * MASK[:, None]
    weights = attention(query, attention.recall(attention.keys(states), past), states, MASK)[1]
    filters, content = attention.filters.weight[:, 0], attention.content
    for row, length in enumerate((5, 2, 3)):
        for number in range(2):
            scores = []
            for i in range(length):
                near = [past[row, number, j] if 0 <= j < 5 else torch.zeros(()).double() for j in (i - 1, i, i + 1)]
                found = attention.location_map.weight @ (filters @ torch.stack(near))
                key = content.key_map(states[row, i]) + found
                scores.append(content.energy.weight[0] @ (content.query_map(query[row, number]) + key).tanh())
            close(weights[row, number, :length], torch.stack(scores).softmax(0))
    assert torch.equal(attention.follow(past[:, 0], weights[:, 0]), weights[:, 0])


@torch.no_grad()
def test_coverage_features_are_the_papers():
    """e_i = v^T tanh(W s + U h_i + w k_i), k_i the sum of the alphas so far."""
    torch.manual_seed(6)
    attention, query, states = randomize(CoverageAttention(4, 6, 7)), drawn(3, 2, 4), drawn(3, 5, 6)
    past = 2 * torch.rand(3, 2, 5, dtype=torch.float64) * MASK[:, None]
    weights = attention(query, attention.recall(attention.keys(states), past), states, MASK)[1]
    content, share = attention.content, attention.coverage_map.weight[:, 0]
    for row, length in enumerate((5, 2, 3)):
        for number in range(2):
            keys = content.key_map(states[row, :length]) + past[row, number, :length, None] * share
            scores = (content.query_map(query[row, number]) + keys).tanh() @ content.energy.weight[0]
            close(weights[row, number, :length], scores.softmax(0))
    close(attention.follow(past[:, 0], weights[:, 0]), past[:, 0] + weights[:, 0])


TRACKING = [
    Kind(decoder=decoder, attention=attention)
    for decoder in ("bahdanau", "luong", "feeding", "gnmt")
    for attention in ("location", "coverage")
]


@pytest.mark.parametrize("kind", TRACKING, ids=lambda kind: kind.name)
@torch.no_grad()
def test_what_is_kept_is_what_was_looked_at(kind):
    """Nothing at first; then the last alpha, or the sum of all; and where it points elsewhere, alpha does too."""
    model, batch = model_of(kind), batch_of(kind)
    state, seen = model.decoder.start(model.encode(batch.src)), []
    assert not state.cache[-1].any()
    for previous in batch.tgt_in.ids.unbind(1):
        decoded, state = model.decoder.step(previous, state)
        seen.append(decoded.weights[:, 0])
        close(state.cache[-1], seen[-1] if kind.attention == "location" else sum(seen))
    forgotten = replace(state, cache=(*state.cache[:-1], torch.zeros_like(state.cache[-1])))
    one, other = (model.decoder.step(previous, before)[0].weights for before in (state, forgotten))
    assert not torch.isclose(one, other).all(-1).any()


@pytest.mark.parametrize("kind", TRACKING, ids=lambda kind: kind.name)
def test_earlier_looks_are_learned_from(kind):
    """The loss of the second position has a gradient in what the score makes of the first alpha, and through it."""
    model, batch = fresh(kind), batch_of(kind, (4, 4, 4), (3, 3, 3))
    contexts = model(batch, weights=True).weights
    named = dict(model.decoder.attention.named_parameters())
    name = "location_map.weight" if kind.attention == "location" else "coverage_map.weight"
    (first,) = torch.autograd.grad(contexts[:, 0].square().sum(), named[name], retain_graph=True)
    (second,) = torch.autograd.grad(contexts[:, 1].square().sum(), named[name])
    assert not first.any()
    assert second.any()
