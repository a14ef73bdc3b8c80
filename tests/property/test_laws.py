"""The laws that every encoder, decoder and attention obeys, on each model that a recipe can name."""

import pytest
import torch
from zoo import FEW, VOCAB, ZOO, Leaves, batch_of, model_of, on_sides, padded, rows_of, stepped, trimmed

from itda.nn.interface import Memory, State, tree_map

every = pytest.mark.parametrize("kind", ZOO.values(), ids=ZOO)
few = pytest.mark.parametrize("kind", FEW.values(), ids=FEW)
with_attention = pytest.mark.parametrize(
    "kind", [kind for kind in FEW.values() if kind.looks], ids=[name for name, kind in FEW.items() if kind.looks]
)


def close(left, right):
    torch.testing.assert_close(left, right, rtol=0, atol=1e-11)


def close_where(mask, left, right):
    """The same features, weights and contexts at real target positions (and real source positions)."""
    for name in ("features", "weights", "contexts"):
        one, other = getattr(left, name), getattr(right, name)
        assert (one is None) == (other is None)
        if one is not None:
            width = min(one.shape[2], other.shape[2])
            close(one[:, : mask.shape[1]][mask][:, :width], other[:, : mask.shape[1]][mask][:, :width])


def leaves(tree):
    found = []
    tree_map(lambda tensor: found.append(tensor) or tensor, tree)
    return found


@every
@torch.no_grad()
def test_forward_is_repeated_step(kind):
    model, batch = model_of(kind), batch_of(kind)
    memory = model.encode(batch.src)
    quick, slow = model.decoder(batch.tgt_in, memory, weights=True), stepped(model.decoder, batch.tgt_in, memory)
    assert (quick.weights is None) == (not kind.looks)
    close_where(batch.tgt_in.mask, quick, slow)
    assert model.decoder(batch.tgt_in, memory).weights is None


@every
@torch.no_grad()
def test_padding_and_neighbours_change_nothing(kind):
    """Garbage under more padding, another order, and each sentence alone: the same to the twelfth digit."""
    model, batch = model_of(kind), batch_of(kind)
    expected, mask = model(batch, weights=True), batch.tgt_in.mask
    garbage = on_sides(batch, lambda side: padded(side, 3))
    close_where(mask, model(garbage, weights=True), expected)
    memory, more = model.encode(batch.src), model.encode(garbage.src)
    close(more.states[:, : memory.states.shape[1]], memory.states)
    assert not more.states[~more.mask].any()
    for one, other in zip(leaves(more.summary), leaves(memory.summary), strict=True):
        close(one, other)
    order = torch.tensor([2, 0, 1])
    turned = model(on_sides(batch, lambda side: rows_of(side, order)), weights=True)
    for place, row in enumerate(order):
        real = mask[row]
        close(turned.features[place, real], expected.features[row, real])
        alone = model(on_sides(batch, lambda side, row=row: trimmed(rows_of(side, row[None]))), weights=True)
        close(alone.features[0], expected.features[row, real])
        if alone.weights is not None:
            close(alone.weights[0], expected.weights[row, real][:, batch.src.mask[row]])


@few
@torch.no_grad()
def test_losses_and_scores_do_not_see_padding(kind):
    model, batch = model_of(kind), batch_of(kind)
    garbage = on_sides(batch, lambda side: padded(side, 3))
    sums, more = model.loss(batch), model.loss(garbage)
    close(sums.nll, more.nll)
    close(sums.objective, more.objective)
    assert int(sums.count) == int(more.count) == batch.num_targets
    (nll, correct), (more_nll, more_correct) = model.scores(batch), model.scores(garbage)
    for errors, right, side in ((nll, correct, batch.tgt_out), (more_nll, more_correct, garbage.tgt_out)):
        assert not errors[~side.mask].any()
        assert not right[~side.mask].any()
        close(errors.sum(), sums.nll)
    assert int(correct.sum()) == int(more_correct.sum())


@few
def test_padding_has_no_gradient(kind):
    model, batch = model_of(kind), on_sides(batch_of(kind), lambda side: padded(side, 2))
    with Leaves(model.encoder.embed) as sources:
        memory = model.encode(batch.src)
    with Leaves(model.decoder.embed) as targets:
        decoded = model.decoder(batch.tgt_in, memory)
    objective = model.head.loss(decoded, batch.tgt_out, memory).objective
    src_grad, tgt_grad = torch.autograd.grad(objective, [sources.values[0], targets.values[0]])
    assert not src_grad[~batch.src.mask].any()
    assert not tgt_grad[~batch.tgt_in.mask].any()
    assert src_grad[batch.src.mask].any(-1).all()
    assert tgt_grad[batch.tgt_in.mask].any(-1).all()


@few
def test_no_position_sees_the_future(kind):
    """The gradient of position t in a later input is exactly zero, and in its own input it is not."""
    model, batch = model_of(kind), batch_of(kind, tgt=(4, 4, 4))
    with Leaves(model.decoder.embed) as targets:
        features = model.decoder(batch.tgt_in, model.encode(batch.src)).features
    for position in range(features.shape[1]):
        (grad,) = torch.autograd.grad(features[:, position].sum(), targets.values[0], retain_graph=True)
        assert not grad[:, position + 1 :].any()
        assert grad[:, : position + 1].any(-1).all()


@few
def test_gradients_never_cross_sentences(kind):
    model, batch = model_of(kind), batch_of(kind, src=(4, 4, 4), tgt=(3, 3, 3))
    with Leaves(model.encoder.embed) as sources:
        memory = model.encode(batch.src)
    with Leaves(model.decoder.embed) as targets:
        decoded = model.decoder(batch.tgt_in, memory)
    for row in range(3):
        grads = torch.autograd.grad(
            decoded.features[row].sum(), [sources.values[0], targets.values[0]], retain_graph=True
        )
        others = [other for other in range(3) if other != row]
        assert all(not grad[others].any() and grad[row].any() for grad in grads)


@every
@torch.no_grad()
def test_attention_rows_are_distributions_over_real_positions(kind):
    model, batch = model_of(kind), on_sides(batch_of(kind), lambda side: padded(side, 2))
    weights = model(batch, weights=True).weights
    if not kind.looks:
        assert weights is None
        return
    close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    real = batch.src.mask[:, None].expand_as(weights)
    assert not weights[~real].any(), "padding has weight 0, exactly"
    assert (weights[real] > 0).all()
    for row in range(len(weights)):
        inside = weights[row, batch.tgt_in.mask[row]][:, batch.src.mask[row]]
        assert (inside.amax(-1) - inside.amin(-1) > 1e-6).all(), "attention that never looks"


one_mixture = pytest.mark.parametrize(
    "kind", [kind for kind in FEW.values() if kind.looks and kind.attention != "multihead"], ids=lambda kind: kind.name
)


@one_mixture
@torch.no_grad()
def test_contexts_are_the_mixture_of_states(kind):
    model, batch = model_of(kind), batch_of(kind)
    memory = model.encode(batch.src)
    decoded = model.decoder(batch.tgt_in, memory, weights=True)
    close(decoded.contexts, torch.einsum("bti,bid->btd", decoded.weights, memory.states))


def choices(kind, seed=3):
    """Inputs for a step of three sentences, one after the other."""
    return batch_of(kind, tgt=(5, 5, 5), seed=seed).tgt_out.values.unbind(1)


def frozen(state: State):
    """Copies of all tensors of a state."""
    return [tensor.clone() for tensor in leaves((state.memory.states, state.memory.summary, state.keys, state.cache))]


@few
@torch.no_grad()
def test_a_state_is_a_value(kind):
    """Two steps from one state are two independent futures, whichever comes first, and the state stays as it was."""
    model, batch = model_of(kind), batch_of(kind)
    start = model.decoder.start(model.encode(batch.src))
    one, other, third, *_ = choices(kind)
    _, state = model.decoder.step(one, start)
    before = frozen(state)
    left, left_state = model.decoder.step(other, state)
    right, right_state = model.decoder.step(third, state)
    again, again_state = model.decoder.step(other, state)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen(state), strict=True))
    assert torch.equal(left.features, again.features)
    assert not torch.equal(left.features, right.features)
    follow = [model.decoder.step(one, future)[0].features for future in (left_state, right_state, again_state)]
    assert torch.equal(follow[0], follow[2])
    assert not torch.equal(follow[0], follow[1])


@few
@torch.no_grad()
def test_reorder_then_step_is_step_then_permute(kind):
    model, batch = model_of(kind), batch_of(kind)
    state = model.decoder.start(model.encode(batch.src))
    one, other, third, fourth, *_ = choices(kind)
    state = model.decoder.step(one, state)[1].widen(3)
    mixed = torch.cat([other, third, fourth])  # nine rows with nine different pasts
    _, state = model.decoder.step(mixed, state)
    rows = torch.tensor([2, 0, 0, 4, 4, 3, 8, 7, 6])
    inputs = torch.cat([fourth, other, one])
    late, late_state = model.decoder.step(inputs, state)
    early, early_state = model.decoder.step(inputs[rows], state.reorder(rows))
    for name in ("features", "weights", "contexts"):
        if getattr(late, name) is not None:
            close(getattr(early, name), getattr(late, name)[rows])
    for a, b in zip(leaves(early_state.cache), leaves(late_state.reorder(rows).cache), strict=True):
        close(a, b)
    unmoved, _ = model.decoder.step(inputs[rows], state)
    assert not torch.allclose(unmoved.features, early.features), "a state that forgets to reorder would pass"


@few
@torch.no_grad()
def test_beams_share_their_sentence(kind):
    """`widen` then step is the same as a memory that was really repeated; nothing of the memory is copied."""
    model, batch = model_of(kind), batch_of(kind)
    memory = model.encode(batch.src)
    repeated = memory.select(torch.arange(3).repeat_interleave(2))
    one, other, third, *_ = choices(kind)
    narrow = model.decoder.start(memory)
    wide = narrow.widen(2)
    assert wide.memory is narrow.memory
    assert wide.keys is narrow.keys
    expected = model.decoder.start(repeated)
    for inputs in (torch.cat([one, other]), torch.cat([third, one])):
        answer, wide = model.decoder.step(inputs, wide)
        slow, expected = model.decoder.step(inputs, expected)
        close_where(torch.ones(6, 1, dtype=torch.bool), answer, slow)
        assert wide.memory is memory
        assert len(leaves(wide.keys)) == 0 or len(leaves(wide.keys)[0]) == 3


@few
@torch.no_grad()
def test_sentences_that_leave_do_not_disturb_the_rest(kind):
    model, batch = model_of(kind), batch_of(kind)
    state = model.decoder.start(model.encode(batch.src)).widen(2)
    one, other, third, *_ = choices(kind)
    _, state = model.decoder.step(torch.cat([one, other]), state)
    whole, _ = model.decoder.step(torch.cat([third, one]), state)
    kept, rows = torch.tensor([2, 0]), torch.tensor([4, 5, 0, 1])
    part, part_state = model.decoder.step(torch.cat([third, one])[rows], state.select(kept))
    close_where(
        torch.ones(4, 1, dtype=torch.bool),
        part,
        type(whole)(
            whole.features[rows],
            None if whole.weights is None else whole.weights[rows],
            None if whole.contexts is None else whole.contexts[rows],
        ),
    )
    assert part_state.width == 2
    assert len(part_state.memory.mask) == 2


@few
@torch.no_grad()
def test_a_memory_is_selected_whole(kind):
    model, batch = model_of(kind), batch_of(kind)
    memory = model.encode(batch.src)
    kept = memory.select(torch.tensor([2, 1]))
    close(kept.states, memory.states[[2, 1]])
    assert torch.equal(kept.mask, memory.mask[[2, 1]])
    for one, other in zip(leaves(kept.summary), leaves(memory.summary), strict=True):
        close(one, other[[2, 1]])
    assert isinstance(kept, Memory)


@few
def test_training_and_search_agree(kind):
    """The loss of a batch is what step by step with the head's own answers gives: one distribution, not two."""
    model, batch = model_of(kind), batch_of(kind)
    with torch.no_grad():
        memory = model.encode(batch.src)
        slow = stepped(model.decoder, batch.tgt_in, memory)
        if kind.data == "vectors":
            errors = (model.head.predict(slow, memory) - batch.tgt_out.values).square().mean(-1)
        else:
            log_probs = model.head.log_probs(slow, memory)
            words = batch.tgt_out.ids % VOCAB  # with factors, ids are packed
            errors = -log_probs.gather(2, words[..., None]).squeeze(-1)
            best = model.head.predict(slow, memory) == words
            assert int(model.scores(batch)[1].sum()) == int(best[batch.tgt_out.mask].sum())
        close(model.loss(batch).nll, errors[batch.tgt_out.mask].sum())
