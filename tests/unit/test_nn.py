"""The parts of a model against torch's own modules and against formulas written out by hand."""

import math

import pytest
import torch
from torch import nn
from zoo import FEW, KINDS, RECURRENT_DECODERS, VOCAB, batch_of, fresh, model_of, padded

from itda.batch import PAD, Tokens, Vectors, token_batch, vector_batch
from itda.build import build_model
from itda.config import AttentionConfig, Config, DecoderConfig, EncoderConfig, ModelConfig
from itda.nn.attention import AdditiveAttention, ConcatAttention, DotAttention, GeneralAttention
from itda.nn.dropping import drop, keep_mask
from itda.nn.embedding import SequenceDropout, VectorEmbedding, reverse_sequences
from itda.nn.heads import SoftmaxHead, VectorHead
from itda.nn.interface import Decoded, Memory, Sums, tree_map
from itda.nn.recurrent import GRUCell, LSTMCell, RecurrentEncoder, first_state
from itda.nn.recurrent_decoder import Stack

NO_DROPOUT = SequenceDropout(0.0, False)
LENGTHS = (5, 1, 3, 5, 2)
both_types = pytest.mark.parametrize(("dtype", "atol"), [(torch.float32, 2e-6), (torch.float64, 1e-13)])
cells = pytest.mark.parametrize("cell", ["lstm", "gru"])


def make_cell(kind, input_dim, dim):
    return {"lstm": LSTMCell, "gru": GRUCell}[kind](input_dim, dim)


def make_encoder(cell, dim, layers, two):
    """A recurrent encoder of three numbers a position."""
    size = dim // 2 if two else dim
    forwards, backwards = (
        [make_cell(cell, dim if layer else 3, size) for layer in range(count)] for count in (layers, layers * two)
    )
    return RecurrentEncoder(VectorEmbedding(3), forwards, backwards, NO_DROPOUT)


def close(left, right, atol=1e-12):
    torch.testing.assert_close(left, right, rtol=0, atol=atol)


def ragged(dim, dtype, lengths=LENGTHS, seed=0):
    torch.manual_seed(seed)
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return torch.randn(*mask.shape, dim, dtype=dtype), mask


def randomize(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


# --- the encoder -------------------------------------------------------------------------------------------------


@cells
@both_types
@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("two", [False, True])
def test_encoder_is_torchs_own_on_packed_sequences(cell, dtype, atol, layers, two):
    """States, final states (h and c at the last real position) and all gradients, whatever lies under the mask."""
    torch.manual_seed(1)
    encoder = randomize(make_encoder(cell, 8, layers, two).to(dtype))
    values, mask = ragged(3, dtype)
    reference, size = (nn.LSTM if cell == "lstm" else nn.GRU), 4 if two else 8
    theirs = reference(3, size, layers, batch_first=True, bidirectional=two).to(dtype)
    pairs = []  # our parameter, theirs
    for layer in range(layers):
        for suffix, ours in (("", encoder.forward_cells), ("_reverse", encoder.backward_cells)):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh") if len(ours) else ():
                pairs.append((getattr(ours[layer].kernel, f"{name}_l0"), getattr(theirs, f"{name}_l{layer}{suffix}")))
    with torch.no_grad():
        for ours, other in pairs:
            other.copy_(ours)
    packed = nn.utils.rnn.pack_padded_sequence(values, mask.sum(1), batch_first=True, enforce_sorted=False)
    output, final = theirs(packed)
    states = nn.utils.rnn.pad_packed_sequence(output, batch_first=True)[0]
    final = final if cell == "lstm" else (final,)
    expected = [[part[layer * (1 + two) : (layer + 1) * (1 + two)] for part in final] for layer in range(layers)]
    expected = tuple(tuple(torch.cat(list(part), dim=-1) for part in parts) for parts in expected)
    garbage = torch.where(mask[..., None], values, torch.tensor(1e8, dtype=dtype))
    memory = encoder(Vectors(garbage, mask))
    close(memory.states, states, atol)
    gradients = []
    for result, summary in ((memory.states, memory.summary), (states, expected)):
        weight = torch.linspace(-1, 2, result.numel(), dtype=dtype).view_as(result)
        total, tree = [(result * weight).sum()], []
        tree_map(lambda t, tree=tree: tree.append(t) or t, summary)
        total += [(part * torch.linspace(1, 3, part.numel(), dtype=dtype).view_as(part)).sum() for part in tree]
        gradients.append((tree, torch.stack(total).sum()))
    for one, other in zip(gradients[0][0], gradients[1][0], strict=True):
        close(one, other, atol)
    mine = torch.autograd.grad(gradients[0][1], [ours for ours, _ in pairs])
    for one, other in zip(mine, torch.autograd.grad(gradients[1][1], [other for _, other in pairs]), strict=True):
        close(one, other, atol * 50)


def test_nothing_under_the_mask_is_read_not_even_nan():
    for cell in ("lstm", "gru"):
        encoder = randomize(make_encoder(cell, 4, 2, True))
        values, mask = ragged(3, torch.float32)
        clean = encoder(Vectors(values, mask))
        dirty = encoder(Vectors(values.masked_fill(~mask[..., None], math.nan), mask))
        assert torch.equal(clean.states, dirty.states)
        dirty.states.sum().backward()
        assert all(parameter.grad.isfinite().all() for parameter in encoder.parameters())


@cells
def test_a_state_read_after_padding_would_be_seen(cell):
    """The check on the check: the kernel's own last state is not the one at the last real position."""
    kernel = randomize(make_cell(cell, 3, 4))
    values, mask = ragged(3, torch.float32)
    naive = kernel.kernel(values)[1]
    naive = naive[0][0] if cell == "lstm" else naive[0]
    right = kernel.sequence(values, first_state(kernel, values), mask)[1][0]
    full = mask.all(1)
    close(naive[full], right[full], 1e-6)
    assert not torch.isclose(naive[~full], right[~full]).all(1).any()


@cells
@both_types
@pytest.mark.parametrize("layers", [1, 2])
def test_the_quick_sequence_is_the_step_loop(cell, layers, dtype, atol):
    """`Stack.sequence` and repeated `Stack.step`, values and gradients, at real positions."""
    torch.manual_seed(3)
    stack = Stack([make_cell(cell, 4 if layer else 3, 4) for layer in range(layers)], NO_DROPOUT)
    stack = randomize(stack.to(dtype))
    values, mask = ragged(3, dtype)
    state = tuple(
        tuple(torch.randn(5, 4, dtype=dtype) for _ in range(2 if cell == "lstm" else 1)) for _ in range(layers)
    )
    quick, slow, now = stack.sequence(values, state), [], state
    for position in values.unbind(1):
        now = stack.step(stack.cells[0].inputs(position), now)
        slow.append(now[-1][0])
    slow = torch.stack(slow, 1)
    close(quick[mask], slow[mask], atol)
    weight = torch.linspace(-1, 1, quick[mask].numel(), dtype=dtype).view_as(quick[mask])
    parameters = list(stack.parameters())
    for one, other in zip(
        torch.autograd.grad((quick[mask] * weight).sum(), parameters),
        torch.autograd.grad((slow[mask] * weight).sum(), parameters),
        strict=True,
    ):
        close(one, other, atol * 20)


@cells
def test_a_cell_is_torchs_cell(cell):
    torch.manual_seed(4)
    ours = randomize(make_cell(cell, 3, 4).double())
    theirs = (nn.LSTMCell if cell == "lstm" else nn.GRUCell)(3, 4).double()
    theirs.load_state_dict({name.removesuffix("_l0"): value for name, value in ours.kernel.state_dict().items()})
    values, state = torch.randn(2, 3).double(), tuple(torch.randn(2, 4).double() for _ in range(ours.parts))
    expected = theirs(values, state if cell == "lstm" else state[0])
    got = ours.step(ours.inputs(values), state)
    for one, other in zip(got, expected if cell == "lstm" else (expected,), strict=True):
        close(one, other)


def test_sequences_are_reversed_within_their_length():
    values = torch.arange(8.0).view(2, 4, 1)
    mask = torch.tensor([[True, True, True, False], [True, True, True, True]])
    assert reverse_sequences(values, mask).squeeze(-1).tolist() == [[2, 1, 0, 3], [7, 6, 5, 4]]
    assert torch.equal(reverse_sequences(reverse_sequences(values, mask), mask), values)


# --- attention ---------------------------------------------------------------------------------------------------


def energy(attention, query, state):
    """e_{t,i} for one query and one state, as the papers write it."""
    match attention:
        case AdditiveAttention():  # v^T tanh(W s + U h)
            mapped = attention.query_map.weight @ query + attention.key_map.weight @ state + attention.key_map.bias
            return attention.energy.weight[0] @ mapped.tanh()
        case ConcatAttention():  # v^T tanh(W [s; h])
            return attention.energy.weight[0] @ (attention.joint_map.weight @ torch.cat([query, state])).tanh()
        case DotAttention():  # s^T h
            return query @ state
        case GeneralAttention():  # s^T W h
            return query @ (attention.key_map.weight @ state)
    raise AssertionError(attention)


def by_hand(attention, query, states):
    """alpha = exp(e) / sum exp(e), c = sum alpha h, with loops."""
    energies = [math.exp(float(energy(attention, query, state))) for state in states]
    alpha = [value / sum(energies) for value in energies]
    context = sum(share * state for share, state in zip(alpha, states, strict=True))
    return torch.tensor(alpha, dtype=states.dtype), context


ATTENTIONS = [AdditiveAttention(4, 6, 7), ConcatAttention(4, 6, 7), GeneralAttention(4, 6), DotAttention()]


@pytest.mark.parametrize("attention", ATTENTIONS, ids=lambda module: type(module).__name__)
@torch.no_grad()
def test_attention_is_the_formula(attention):
    torch.manual_seed(5)
    attention = randomize(attention.double())
    states, mask = ragged(4 if isinstance(attention, DotAttention) else 6, torch.float64, (3, 5, 1))
    query = torch.randn(3, 2, 4, dtype=torch.float64)
    context, weights = attention(query, attention.keys(states), states, mask)
    for row, length in enumerate((3, 5, 1)):
        for number in range(2):
            alpha, expected = by_hand(attention, query[row, number], states[row, :length])
            close(weights[row, number, :length], alpha)
            assert not weights[row, number, length:].any()
            close(context[row, number], expected)


LOOKING = [kind for kind in KINDS if kind.decoder != "plain" and kind.data == "text" and kind.cell == "lstm"]
LOOKING = [kind for kind in LOOKING if kind.directions == 1 and kind.bridge == "dense"]


@pytest.mark.parametrize("kind", LOOKING, ids=lambda kind: kind.name)
@torch.no_grad()
def test_a_decoder_step_is_the_lectures_formula(kind):
    """Bahdanau: alpha from s_{t-1}, then s_t = f(s_{t-1}, y_{t-1}, c_t). Luong: s_t, then alpha from s_t."""
    model, batch = model_of(kind), batch_of(kind)
    decoder, memory = model.decoder, model.encode(batch.src)
    _, state = decoder.step(batch.tgt_in.ids[:, 0], decoder.start(memory))
    previous = torch.tensor([4, 7, 9])
    decoded, after = decoder.step(previous, state)
    embedded = decoder.embed.table.weight[previous]
    bahdanau = kind.decoder == "bahdanau"
    layers, new_layers = state.cache[0], after.cache[0]
    queries = layers[-1][0] if bahdanau else new_layers[-1][0]
    for row, length in enumerate(batch.src.mask.sum(1).tolist()):
        alpha, context = by_hand(decoder.attention, queries[row], memory.states[row, :length])
        close(decoded.weights[row, 0, :length], alpha)
        close(decoded.contexts[row, 0], context)
    contexts = decoded.contexts[:, 0]
    if bahdanau:
        values = torch.cat([embedded, contexts], -1)
    else:
        values = torch.cat([embedded, state.cache[1]], -1) if kind.decoder == "feeding" else embedded
    for layer, old, new in zip(decoder.stack.cells, layers, new_layers, strict=True):
        theirs = (nn.LSTMCell if kind.decoder_cell == "lstm" else nn.GRUCell)(*layer_sizes(layer)).double()
        theirs.load_state_dict({name.removesuffix("_l0"): value for name, value in layer.kernel.state_dict().items()})
        expected = theirs(values, old if len(old) == 2 else old[0])
        expected = expected if len(old) == 2 else (expected,)
        for one, other in zip(new, expected, strict=True):
            close(one, other)
        values = expected[0]
    features = torch.cat([values, contexts, embedded] if bahdanau else [values, contexts], -1)
    features = torch.tanh(features @ decoder.readout.map.weight.T + decoder.readout.map.bias)
    close(decoded.features[:, 0], features)
    if kind.decoder == "feeding":
        close(after.cache[1], features)


def layer_sizes(cell):
    return cell.kernel.input_size, cell.kernel.hidden_size


BRIDGED = [kind for kind in FEW.values() if kind.decoder in RECURRENT_DECODERS]


@pytest.mark.parametrize("kind", BRIDGED, ids=lambda kind: kind.name)
@torch.no_grad()
def test_the_first_state_is_the_bridge_from_the_last_real_one(kind):
    model, batch = model_of(kind), batch_of(kind)
    memory = model.encode(batch.src)
    first = model.decoder.bridge(memory)
    if kind.bridge == "copy":
        assert first is memory.summary
        return
    parts, size = 2 if kind.decoder_cell == "lstm" else 1, model.decoder.stack.dim
    if kind.bridge == "zero":
        mapped = torch.zeros(3, kind.layers * parts * size, dtype=torch.float64)
    else:
        linear, read = model.decoder.bridge.map, torch.cat(memory.summary[-1], -1)
        if kind.bridge == "mean":
            read = torch.stack([states[mask].mean(0) for states, mask in zip(memory.states, memory.mask, strict=True)])
        mapped = torch.tanh(read @ linear.weight.T + linear.bias)
    for layer in range(kind.layers):
        for part in range(parts):
            start = (layer * parts + part) * size
            close(first[layer][part], mapped[:, start : start + size])


# --- dropout -----------------------------------------------------------------------------------------------------


def test_dropout_draws_one_mask_a_sentence_where_it_is_variational():
    torch.manual_seed(6)
    values = torch.ones(4, 6, 50)
    plain, variational = SequenceDropout(0.4, False)(values), SequenceDropout(0.4, True)(values)
    for dropped in (plain, variational):
        assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.6])
        assert float((dropped == 0).float().mean()) == pytest.approx(0.4, abs=0.1)
    assert (variational == variational[:, :1]).all()
    assert not (variational[0] == variational[1]).all()
    assert not (plain == plain[:, :1]).all()


@pytest.mark.parametrize("rate", [0.0001, 0.1, 0.3, 0.5, 0.95])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dropout_drops_at_its_rate_and_each_number_by_itself(rate, dtype):
    torch.manual_seed(7)
    mask = keep_mask(torch.zeros(1001, 1003, dtype=dtype), rate)
    assert mask.dtype == dtype
    dropped = (mask == 0).double()
    deviation = math.sqrt(rate * (1 - rate))
    assert abs(float(dropped.mean()) - rate) < 4 * deviation / 1000 + 2**-17
    kept = mask[mask != 0]
    assert (kept == torch.tensor(1 / (1 - rate), dtype=dtype)).all()
    if deviation > 0.1:  # neighbours share a random number: no draw may tell of another, nor of one far away
        flat = (dropped - rate).flatten() / deviation
        for lag in (1, 2, 3, 4, 1003):
            assert abs(float((flat[:-lag] * flat[lag:]).mean())) < 0.005
    values = torch.randn(5, 3, dtype=dtype, requires_grad=True)
    torch.manual_seed(8)
    mask = keep_mask(values, rate)
    torch.manual_seed(8)
    answer = drop(values, rate)
    assert torch.equal(answer, values * mask)
    assert torch.equal(torch.autograd.grad(answer.sum(), values)[0], mask)


def test_dropout_is_off_in_evaluation_and_at_zero():
    values = torch.ones(2, 3, 4)
    assert SequenceDropout(0.5, True).eval()(values) is values
    assert SequenceDropout(0.0, False)(values) is values


@pytest.mark.parametrize("kind", FEW.values(), ids=FEW)
def test_dropout_acts_in_training_alone(kind):
    model = fresh(kind)
    model.eval()
    batch = batch_of(kind)
    quiet = model.loss(batch).nll
    for module in model.modules():
        if isinstance(module, SequenceDropout):
            module.rate = 0.5
    assert torch.equal(quiet, model.loss(batch).nll)
    model.train()
    torch.manual_seed(1)
    one, other = model.loss(batch).nll, model.loss(batch).nll
    assert not torch.equal(one, quiet)
    assert not torch.equal(one, other)
    torch.manual_seed(1)
    assert torch.equal(one, model.loss(batch).nll), "dropout draws from torch's global generator alone"


# --- heads -------------------------------------------------------------------------------------------------------


def softmax_head(smoothing=0.0, dim=5, vocab=VOCAB):
    torch.manual_seed(7)
    return randomize(SoftmaxHead(dim, vocab, smoothing).double())


def decoded_of(*shape):
    return Decoded(torch.randn(*shape, dtype=torch.float64))


NOTHING = Memory(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))


@torch.no_grad()
def test_pad_and_bos_can_never_follow():
    head = softmax_head()
    probabilities = head.log_probs(decoded_of(3, 4, 5), NOTHING).exp()
    assert not probabilities[..., [0, 2]].any()
    assert (probabilities[..., [1, 3, *range(4, VOCAB)]] > 0).all()
    close(probabilities.sum(-1), torch.ones(3, 4).double())
    head.bias[PAD] = 1e6
    assert (head.predict(decoded_of(50, 4, 5), NOTHING) != PAD).all()


@torch.no_grad()
def test_a_shortlist_is_the_renormalised_part():
    head, decoded = softmax_head(), decoded_of(2, 3, 5)
    candidates = torch.tensor([3, 9, 4, 6])
    whole, part = head.log_probs(decoded, NOTHING), head.log_probs(decoded, NOTHING, candidates)
    chosen = whole[..., candidates].exp()
    close(part.exp(), chosen / chosen.sum(-1, keepdim=True))


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_likelihood_objective_and_scores_are_told_apart(smoothing):
    """The nll knows no label smoothing; scores add up to it; the first choice is the most probable token."""
    head, decoded = softmax_head(smoothing), decoded_of(2, 4, 5)
    target = Tokens(torch.tensor([[4, 5, 6, 3], [7, 3, 0, 2]]), torch.tensor([[True] * 4, [True, True, False, False]]))
    sums = head.loss(decoded, target, NOTHING)
    nll, correct = head.scores(decoded, target, NOTHING)
    log_probs = head.log_probs(decoded, NOTHING)
    expected = -log_probs.gather(2, target.ids[..., None]).squeeze(-1)
    close(sums.nll, expected[target.mask].sum())
    close(nll, expected.masked_fill(~target.mask, 0.0))
    assert torch.equal(correct, (log_probs.argmax(-1) == target.ids) & target.mask)
    assert int(sums.count) == 6
    allowed = [1, *range(3, VOCAB)]
    smoothed = (1 - smoothing) * expected - smoothing * log_probs[..., allowed].mean(-1)
    close(sums.objective, smoothed[target.mask].sum())


def test_a_batch_without_targets_costs_nothing():
    head, decoded = softmax_head(), decoded_of(2, 3, 5)
    target = Tokens(torch.zeros(2, 3, dtype=torch.long), torch.zeros(2, 3, dtype=torch.bool))
    sums = head.loss(decoded, target, NOTHING)
    assert (sums.nll.item(), sums.objective.item(), sums.count.item()) == (0.0, 0.0, 0)
    nll, correct = head.scores(decoded, target, NOTHING)
    assert not nll.any()
    assert not correct.any()


def test_squared_error_is_torchs_mse_over_real_positions():
    torch.manual_seed(8)
    head = randomize(VectorHead(5, 3).double())
    decoded, values = decoded_of(2, 4, 5), torch.randn(2, 4, 3, dtype=torch.float64)
    mask = torch.tensor([[True] * 4, [True, True, False, False]])
    target = Vectors(values, mask)
    sums = head.loss(decoded, target, NOTHING)
    predicted = head.predict(decoded, NOTHING)
    close(sums.objective / sums.count, nn.functional.mse_loss(predicted[mask], values[mask]))
    assert torch.equal(sums.nll, sums.objective)
    nll, correct = head.scores(decoded, padded(target, 0), NOTHING)
    close(nll.sum(), sums.nll)
    assert not nll[~mask].any()
    assert not correct.any()
    with pytest.raises(NotImplementedError, match="no discrete distribution"):
        head.log_probs(decoded, NOTHING)


# --- composing ---------------------------------------------------------------------------------------------------


def test_a_batch_is_encoded_once():
    calls = []
    handle = model_of(KINDS[0]).encoder.register_forward_hook(lambda *_: calls.append(1))
    sums = model_of(KINDS[0]).loss(batch_of(KINDS[0]))
    handle.remove()
    assert isinstance(sums, Sums)
    assert len(calls) == 1


def config_of(tie, dropout=0.0):
    parts = ModelConfig(
        embedding_dim=6, tie=tie, dropout=dropout, encoder=EncoderConfig(dim=8), decoder=DecoderConfig(dim=8)
    )
    return Config(model=parts)


@pytest.mark.parametrize(("tie", "tables"), [("none", 3), ("target", 2), ("all", 1)])
def test_tied_embeddings_are_one_parameter(tie, tables):
    model = build_model(config_of(tie), 9, 9)
    found = {id(p) for p in (model.encoder.embed.table.weight, model.decoder.embed.table.weight, model.head.weight)}
    assert len(found) == tables
    shapes = [parameter.shape for parameter in model.parameters() if parameter.shape == (9, 6)]
    assert len(shapes) == tables, "parameters() names a tied one once"


def test_padding_is_embedded_as_zero_and_stays_so():
    model = build_model(config_of("all"), 9, 9)
    table = model.decoder.embed.table.weight
    assert not table[PAD].any()
    batch = batch_of(KINDS[0])
    ids = batch.src.ids.clamp(max=8)
    memory = model.encode(Tokens(ids, batch.src.mask))
    decoded = model.decoder(Tokens(batch.tgt_in.ids.clamp(max=8), batch.tgt_in.mask), memory)
    target = Tokens(batch.tgt_out.ids.clamp(max=8), batch.tgt_out.mask)
    model.head.loss(decoded, target, memory).objective.backward()
    assert not table.grad[PAD].any()


def test_the_first_row_of_vectors_is_predicted_from_zeros():
    batch = vector_batch([torch.randn(3, 2)], [torch.randn(4, 2)])
    assert not batch.tgt_in.values[0, 0].any()
    assert torch.equal(batch.tgt_in.values[0, 1:], batch.tgt_out.values[0, :-1])


@pytest.mark.parametrize("decoder", ["plain", "bahdanau", "luong"])
@pytest.mark.parametrize("feeding", [True, False])
def test_variational_dropout_drops_the_same_features_at_every_step(decoder: str, feeding: bool):
    config = Config(
        model=ModelConfig(
            embedding_dim=24,
            dropout=0.5,
            variational=True,
            encoder=EncoderConfig(dim=16, num_layers=2),
            decoder=DecoderConfig(kind=decoder, dim=16, num_layers=2, input_feeding=feeding),
            attention=AttentionConfig(kind="additive", dim=8),
        )
    )
    torch.manual_seed(0)
    model = build_model(config, 20, 20).train()
    batch = token_batch([[5, 6, 7], [8, 9, 10]], [[5, 6, 7, 8], [7, 8, 9, 5]])
    state, steps = model.decoder.start(model.encode(batch.src)), []
    for position in range(5):
        decoded, state = model.decoder.step(batch.tgt_in.ids[:, position], state)
        steps.append(decoded.features)
    for features in (torch.cat(steps, 1), model(batch).features):
        dropped = features == 0
        assert dropped.any()
        assert (dropped == dropped[:, :1]).all(), "one mask for all positions of a sentence"
        assert not torch.equal(dropped[0], dropped[1]), "and another for each sentence"
