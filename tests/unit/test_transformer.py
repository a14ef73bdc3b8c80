"""The Transformer's parts against torch's own layers and against formulas written out by hand."""

import math

import pytest
import torch
from torch import nn
from zoo import OTHERS, Kind, batch_of, close, drawn, fresh, randomize, stepped

from itda.batch import PAD, Tokens, Vectors, token_batch, vector_batch
from itda.build import build_model
from itda.config import Config, DataConfig, DecoderConfig, EncoderConfig, ModelConfig, TransformerConfig
from itda.nn.embedding import SequenceDropout
from itda.nn.feedforward import FeedForward
from itda.nn.interface import Decoded, Memory
from itda.nn.multihead import CrossAttention, SelfAttention, attend, attend_to_past, attend_visibly, padding_bias
from itda.nn.positions import LearnedPositions, SinusoidalPositions, _angles, rotate
from itda.nn.transformer import DecoderLayer, EncoderLayer, Residual, make_norm
from itda.nn.walks import looking
from itda.training.rollout import exact_rollout

MASK = torch.arange(5) < torch.tensor([5, 2, 3])[:, None]
NO_DROPOUT = SequenceDropout(0.0, False)
NOTHING = Memory(torch.zeros(1, 1, 1), torch.ones(1, 1, dtype=torch.bool))


def config(kind="text", tie="target", variational=False, dropout=0.0, dim=8, **shape):
    return Config(
        data=DataConfig(kind=kind, src_dim=3, tgt_dim=4),
        model=ModelConfig(
            embedding_dim=8,
            tie=tie if kind == "text" else "none",
            dropout=dropout,
            variational=variational,
            encoder=EncoderConfig(kind="transformer", dim=dim, num_layers=2),
            decoder=DecoderConfig(kind="transformer", dim=dim, num_layers=2),
            transformer=TransformerConfig(**({"num_heads": 2, "ffn_dim": 16} | shape)),
        ),
    )


def model(**settings):
    torch.manual_seed(0)
    return randomize(build_model(config(**settings), 12, 12)).eval()


# --- attention ---------------------------------------------------------------------------------------------------


def by_hand(query, key, value, allowed):
    """softmax(q k^T / sqrt(d)) v for each row, head and position, over what is allowed; and the weights."""
    answer, weights = torch.zeros_like(query), query.new_zeros(*query.shape[:3], key.shape[2])
    group = query.shape[1] // key.shape[1]
    rows, parts = [], []
    for row in range(query.shape[0]):
        for head in range(query.shape[1]):
            for position in range(query.shape[2]):
                inside = allowed[row, position].nonzero().squeeze(1)
                scores = key[row, head // group, inside] @ query[row, head, position] / math.sqrt(query.shape[-1])
                shares = scores.exp() / scores.exp().sum()
                rows.append(shares @ value[row, head // group, inside])
                parts.append(query.new_zeros(key.shape[2]).index_put((inside,), shares))
    return torch.stack(rows).view_as(answer), torch.stack(parts).view_as(weights)


def same_with_gradients(inputs, *answers):
    weight = torch.linspace(-1, 2, answers[0].numel(), dtype=torch.float64).view_as(answers[0])
    gradients = [torch.autograd.grad((answer * weight).sum(), inputs) for answer in answers]
    for answer, grads in zip(answers, gradients, strict=True):
        close(answer, answers[-1])
        for one, other in zip(grads, gradients[-1], strict=True):
            close(one, other, 1e-11)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_by_torchs_kernel_is_the_formula(kv_heads):
    """The kernel, what is written out, and loops: values and gradients, with groups of heads and without."""
    torch.manual_seed(1)
    query = drawn(3, 4, 6, 2, grad=True)
    key, value = drawn(3, kv_heads, 5, 2, grad=True), drawn(3, kv_heads, 5, 2, grad=True)
    bias = padding_bias(MASK, torch.float64)
    written, weights = attend_visibly(query, key, value, bias)
    slow, shares = by_hand(query, key, value, MASK[:, None].expand(3, 6, 5))
    same_with_gradients([query, key, value], attend(query, key, value, bias), written, slow)
    close(weights, shares)
    assert not weights[~MASK[:, None, None].expand_as(weights)].any()


@pytest.mark.parametrize("keys", [7, 8, 15, 16])
@torch.no_grad()
def test_attention_to_few_keys_is_the_formula(keys):
    """Without gradients some keys are added that nobody sees."""
    torch.manual_seed(1)
    query, key, value = drawn(3, 4, 6, 2), drawn(3, 2, keys, 2), drawn(3, 2, keys, 2)
    bias = padding_bias(torch.arange(keys) < torch.tensor([[keys], [keys - 3], [1]]), torch.float64)
    close(attend(query, key, value, bias), attend_visibly(query, key, value, bias)[0])


@pytest.mark.parametrize(("width", "kv_heads"), [(1, 4), (1, 2), (3, 4), (3, 2)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@torch.no_grad()
def test_a_walk_looks_at_the_first_places_of_its_store(width, kv_heads, dtype):
    torch.manual_seed(1)
    query, store = torch.randn(3, 4, width, 2, dtype=dtype), torch.randn(2, 3, kv_heads, 24, 2, dtype=dtype)
    bias = torch.randn(3 * kv_heads, 1, 20, dtype=dtype)
    answer, weights = looking.attend(query, *store, 20, bias, looking.Places())
    key, value = (part[:, :, :20].repeat_interleave(4 // kv_heads, dim=1) for part in store)
    added = bias.view(3, kv_heads, 1, 20).repeat_interleave(4 // kv_heads, dim=1)
    shares = torch.softmax(query @ key.transpose(2, 3) * 2**-0.5 + added, dim=3)
    torch.testing.assert_close(answer, (shares @ value).transpose(1, 2).flatten(2))
    torch.testing.assert_close(weights.view(shares.shape), shares)


@pytest.mark.parametrize("kv_heads", [4, 2, 1])
def test_attention_to_the_past_is_the_formula(kv_heads):
    torch.manual_seed(2)
    query = drawn(3, 4, 5, 2, grad=True)
    key, value = drawn(3, kv_heads, 5, 2, grad=True), drawn(3, kv_heads, 5, 2, grad=True)
    allowed = torch.ones(5, 5, dtype=torch.bool).tril().expand(3, 5, 5)
    same_with_gradients([query, key, value], attend_to_past(query, key, value), by_hand(query, key, value, allowed)[0])


@torch.no_grad()
@pytest.mark.parametrize("rotary", [False, True])
def test_grouped_heads_are_repeated_heads(rotary):
    torch.manual_seed(3)
    few, many = (randomize(SelfAttention(8, 4, kv, rotary, 0.0)) for kv in (2, 4))
    for name in ("weight", "bias"):
        query, key, value = getattr(few.map, name).split([8, 4, 4])
        repeated = [part.unflatten(0, (2, 2)).repeat_interleave(2, 0).flatten(0, 1) for part in (key, value)]
        getattr(many.map, name).copy_(torch.cat([query, *repeated]))
    many.output.load_state_dict(few.output.state_dict())
    values = drawn(3, 5, 8)
    close(few(values), many(values))
    bias = padding_bias(MASK, torch.float64)
    close(few(values, bias), many(values, bias))
    few, many = (randomize(CrossAttention(8, 6, 4, kv, 0.0)) for kv in (2, 4))
    for name in ("weight", "bias"):
        parts = getattr(few.memory_map, name).chunk(2)
        repeated = [part.unflatten(0, (2, 2)).repeat_interleave(2, 0).flatten(0, 1) for part in parts]
        getattr(many.memory_map, name).copy_(torch.cat(repeated))
    for name in ("query_map", "output"):
        getattr(many, name).load_state_dict(getattr(few, name).state_dict())
    states = drawn(3, 5, 6)
    for one, other in zip(
        few.look(values, few.keys(states), bias), many.look(values, many.keys(states), bias), strict=True
    ):
        close(one, other)


@torch.no_grad()
def test_weights_are_the_last_layers_averaged_over_its_heads():
    part, batch = model(num_kv_heads=1), token_batch([[5, 6, 7], [8]], [[4, 5], [6]])
    seen = {}
    for number, layer in enumerate(part.decoder.layers):
        layer.cross.query_map.register_forward_hook(lambda _, __, output, n=number: seen.update({n: output}))
    memory = part.encode(batch.src)
    decoded = part.decoder(batch.tgt_in, memory, weights=True)
    key, value = part.decoder.layers[1].cross.keys(memory.states)
    query = seen[1].unflatten(2, (2, 4)).transpose(1, 2)
    allowed = batch.src.mask[:, None].expand(-1, batch.tgt_in.ids.shape[1], -1)
    close(decoded.weights, by_hand(query, key, value, allowed)[1].mean(1))


def test_dropout_on_attention_is_in_training_alone():
    torch.manual_seed(4)
    attention, values = randomize(SelfAttention(8, 2, 2, False, 0.5)), drawn(3, 5, 8)
    cross = randomize(CrossAttention(8, 8, 2, 2, 0.5))
    bias, keys = padding_bias(MASK, torch.float64), cross.keys(values)
    for part, arguments in ((attention, (values,)), (attention, (values, bias)), (cross, (values, keys, bias))):
        part.eval()
        quiet = part(*arguments)
        assert torch.equal(quiet, part(*arguments))
        part.train()
        assert not torch.equal(part(*arguments), quiet)
    answer, weights = cross.look(values, keys, bias)
    assert not torch.equal(answer, cross.look(values, keys, bias)[0])
    close(weights.sum(-1), torch.ones(3, 5).double())  # what is shown is where the model looks, before dropout


# --- layers ------------------------------------------------------------------------------------------------------


def copy(ours, theirs):
    with torch.no_grad():
        theirs.weight.copy_(ours.weight)
        theirs.bias.copy_(ours.bias)


def residuals(number, norm_first):
    return [Residual(make_norm("layer", 8), norm_first, NO_DROPOUT) for _ in range(number)]


def copy_self_attention(ours, theirs):
    with torch.no_grad():
        theirs.in_proj_weight.copy_(ours.map.weight)
        theirs.in_proj_bias.copy_(ours.map.bias)
    copy(ours.output, theirs.out_proj)


@pytest.mark.parametrize("norm_first", [True, False])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_an_encoder_layer_is_torchs(norm_first, activation):
    torch.manual_seed(5)
    attention, feed_forward = SelfAttention(8, 2, 2, False, 0.0), FeedForward(8, 16, activation)
    ours = randomize(EncoderLayer(attention, feed_forward, residuals(2, norm_first)))
    theirs = nn.TransformerEncoderLayer(8, 2, 16, 0.0, activation, batch_first=True, norm_first=norm_first).double()
    copy_self_attention(attention, theirs.self_attn)
    for one, other in zip(
        [feed_forward.map, feed_forward.output, ours.residuals[0].norm, ours.residuals[1].norm],
        [theirs.linear1, theirs.linear2, theirs.norm1, theirs.norm2],
        strict=True,
    ):
        copy(one, other)
    values = drawn(3, 5, 8)
    expected = theirs(values, src_key_padding_mask=~MASK)
    close(ours(values, padding_bias(MASK, torch.float64))[MASK], expected[MASK])


@pytest.mark.parametrize("norm_first", [True, False])
def test_a_decoder_layer_is_torchs(norm_first):
    torch.manual_seed(6)
    attention, cross, feed_forward = (
        SelfAttention(8, 2, 2, False, 0.0),
        CrossAttention(8, 8, 2, 2, 0.0),
        FeedForward(8, 16, "relu"),
    )
    ours = randomize(DecoderLayer(attention, cross, feed_forward, residuals(3, norm_first)))
    theirs = nn.TransformerDecoderLayer(8, 2, 16, 0.0, batch_first=True, norm_first=norm_first).double()
    copy_self_attention(attention, theirs.self_attn)
    with torch.no_grad():
        for name in ("weight", "bias"):
            parts = [getattr(cross.query_map, name), getattr(cross.memory_map, name)]
            getattr(theirs.multihead_attn, f"in_proj_{name}").copy_(torch.cat(parts))
    copy(cross.output, theirs.multihead_attn.out_proj)
    pairs = [(feed_forward.map, theirs.linear1), (feed_forward.output, theirs.linear2)]
    for number, residual in enumerate(ours.residuals, 1):
        pairs.append((residual.norm, getattr(theirs, f"norm{number}")))
    for one, other in pairs:
        copy(one, other)
    values, states = drawn(3, 4, 8), drawn(3, 5, 8)
    later = torch.ones(4, 4, dtype=torch.bool).triu(1)
    expected = theirs(values, states, tgt_mask=later, tgt_is_causal=True, memory_key_padding_mask=~MASK)
    bias = padding_bias(MASK, torch.float64)
    close(ours(values, cross.keys(states), bias, (None,) * 3, False)[0], expected)
    close(ours(values, cross.keys(states), bias, (None,) * 3, True)[0], expected)


def test_gated_feed_forward_and_rms_norm_are_the_formulas():
    torch.manual_seed(7)
    part, values = randomize(FeedForward(4, 6, "swiglu")), drawn(2, 3, 4)
    gate, inner = (values @ part.map.weight.T + part.map.bias).split(6, dim=-1)
    expected = (gate / (1 + (-gate).exp()) * inner) @ part.output.weight.T + part.output.bias
    close(part(values), expected)
    norm = randomize(make_norm("rms", 4))
    close(norm(values), values / (values.square().mean(-1, keepdim=True) + 1e-6).sqrt() * norm.weight)


# --- positions ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [6, 5])
def test_sinusoidal_positions_are_the_formula(dim):
    positions = SinusoidalPositions()(torch.zeros(1, 130, dim, dtype=torch.float64))[0]
    for t in (0, 1, 63, 64, 129):
        for i in range(dim):
            angle = t / 10_000 ** ((i - i % 2) / dim)
            assert positions[t, i].item() == pytest.approx(math.cos(angle) if i % 2 else math.sin(angle), abs=1e-12)
    later = SinusoidalPositions()(torch.zeros(1, 40, dim, dtype=torch.float64), 50)[0]
    assert torch.equal(later, positions[50:90]), "whichever table they stand in"


def test_rotary_positions_are_relative():
    """A product depends on the distance alone; position 0 is not turned; lengths stay."""
    torch.manual_seed(8)
    query, key = drawn(2, 3, 4, 6), drawn(2, 3, 4, 6)
    products = [rotate(query, start) @ rotate(key, start).mT for start in (0, 3, 62)]
    close(products[0], products[1])
    close(products[0], products[2])
    assert not torch.allclose(products[0], rotate(query, 1) @ rotate(key, 0).mT), "a distance is seen"
    close(rotate(query)[:, :, 0], query[:, :, 0])
    close(rotate(query, 9).norm(dim=-1), query.norm(dim=-1))
    pairs = torch.complex(query[..., :3], query[..., 3:])
    rates = 10_000 ** (-torch.arange(3, dtype=torch.float64) / 3)
    turned = pairs * torch.polar(torch.ones(4, 3).double(), torch.arange(4)[:, None] * rates)
    close(rotate(query), torch.cat([turned.real, turned.imag], -1))


def test_learned_positions_beyond_the_last_share_it():
    positions = LearnedPositions(4, 3)
    added = positions(torch.zeros(2, 7, 3))[0]
    assert torch.equal(added[:4], positions.table)
    assert torch.equal(added[4:], positions.table[3:].expand(3, 3))
    assert torch.equal(positions(torch.zeros(2, 2, 3), 3)[0], positions.table[3:].expand(2, 3))


def test_a_search_may_be_the_first_to_ask_for_positions():
    """Tables that a search made, in inference mode, serve training too."""
    for positions in ("sinusoidal", "rotary"):
        _angles.cache_clear()
        part, batch = model(positions=positions), token_batch([[5, 6]], [[7, 8]])
        with torch.inference_mode():
            part(batch)
        part.loss(batch).objective.backward()


# --- the whole ---------------------------------------------------------------------------------------------------


def test_nothing_under_a_mask_is_read_not_even_nan():
    part = model(kind="vectors")
    batch = vector_batch([torch.randn(3, 3), torch.randn(5, 3)], [torch.randn(4, 4), torch.randn(2, 4)])
    clean = [Vectors(side.values.double(), side.mask) for side in (batch.src, batch.tgt_in, batch.tgt_out)]
    dirty = [Vectors(side.values.masked_fill(~side.mask[..., None], math.nan), side.mask) for side in clean]
    expected, got = (part.decoder(two, part.encode(one)).features for one, two, _ in (clean, dirty))
    close(got[clean[1].mask], expected[clean[1].mask])
    got[clean[1].mask].sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in part.parameters())


def test_the_summary_is_the_mean_over_real_positions():
    part = model()
    batch = token_batch([[5, 6, 7], [8]], [[4], [4]])
    memory = part.encode(batch.src)
    ((mean,),) = memory.summary
    for row, length in enumerate((4, 2)):
        close(mean[row], memory.states[row, :length].mean(0))


@torch.no_grad()
@pytest.mark.parametrize("positions", ["sinusoidal", "rotary"])
def test_a_step_computes_what_is_new_alone(positions):
    """The memory is projected once; each layer sees one position a row, and its cache grows by one."""
    part, seen = model(positions=positions, num_kv_heads=1), {"memory": 0, "widths": set()}
    for layer in part.decoder.layers:
        layer.cross.memory_map.register_forward_hook(lambda *_: seen.update(memory=seen["memory"] + 1))
        for inner in (layer.mixer.map, layer.cross.query_map, layer.feed_forward.map):
            inner.register_forward_hook(lambda _, inputs, __: seen["widths"].add(inputs[0].shape[:2].numel()))
    state = part.decoder.start(part.encode(token_batch([[5, 6, 7], [8]], [[4], [4]]).src)).widen(3)
    for position in range(1, 4):
        state = part.decoder.step(torch.full((6,), 4 + position), state)[1]
        clock, caches = state.cache
        assert clock.shape == (6, position, 0)
        assert [cache.shape for cache in caches] == [(6, 2, position, 4)] * 2
    assert seen == {"memory": 2, "widths": {6}}


def test_variational_dropout_is_the_same_at_every_step():
    """With the masks of a sentence drawn once, repeated steps are `forward` in training too."""
    part = model(variational=True, dropout=0.5).train()
    batch = token_batch([[5, 6, 7], [8]], [[4, 5, 6], [7, 8]])
    with torch.no_grad():
        memory = part.encode(batch.src)
        torch.manual_seed(3)
        quick = part.decoder(batch.tgt_in, memory)
        torch.manual_seed(3)
        slow = stepped(part.decoder, batch.tgt_in, memory)
        close(quick.features[batch.tgt_in.mask], slow.features[batch.tgt_in.mask])
        assert not torch.allclose(quick.features, part.decoder(batch.tgt_in, memory).features)


@torch.no_grad()
def test_text_is_read_with_unit_variance_and_so_are_the_first_logits():
    for tie in ("none", "target", "all"):
        torch.manual_seed(0)
        part = build_model(config(tie=tie, dim=64), 200, 200)
        for side in (part.encoder, part.decoder):
            table = side.embed.table.weight
            assert not table[PAD].any()
            assert float((table[1:] * side.entrance.scale).std()) == pytest.approx(1.0, abs=0.1)
        ids = torch.randint(4, 200, (8, 12))
        features = part.decoder(Tokens(ids, ids > 0), part.encode(Tokens(ids, ids > 0))).features
        logits = part.head.log_probs(Decoded(features), NOTHING)[..., 4:]
        others = torch.ones_like(logits, dtype=torch.bool).scatter(2, ids[..., None] - 4, False)
        assert float(logits[others].std()) < 1.5  # all but the word that was just read, which tied embeddings favour
        norms = [m for m in part.modules() if isinstance(m, nn.LayerNorm)]
        assert all((norm.weight == 1).all() and not norm.bias.any() for norm in norms)


AUTOCAST = [kind for kind in OTHERS if kind.data == "text"]
AUTOCAST += [Kind(cell=cell, decoder=decoder) for cell in ("lstm", "gru") for decoder in ("transformer", "ssru")]


@pytest.mark.parametrize("kind", AUTOCAST, ids=lambda kind: kind.name)
def test_bfloat16_autocast_trains_by_forward_and_by_step(kind):
    part, batch = fresh(kind).float().train(), batch_of(kind)
    with torch.autocast("cpu", torch.bfloat16):
        objectives = [part.loss(batch).objective, exact_rollout(part, batch, 0.5, "token", torch.Generator()).objective]
    sum(objectives).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in part.parameters())
