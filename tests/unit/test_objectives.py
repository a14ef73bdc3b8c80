"""Objectives: each equals its plain formula, in values and gradients, and adds up over micro-batches."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch.nn import functional
from zoo import FEW, VOCAB, Kind, batch_of, close, drawn, fresh, rows_of, trimmed

from itda.batch import BOS, EOS, PAD, UNK, Batch, token_batch
from itda.config import DecodeConfig, GuidedAlignmentConfig, MinimumRiskConfig, TokenizerConfig, TrainConfig
from itda.evaluate.sentence import rouge_l, sentence_score
from itda.nn.embedding import SequenceDropout
from itda.nn.fused import paired_loss, token_loss
from itda.nn.fused.chunk import CHUNK
from itda.text.tokenizer import train_tokenizers
from itda.training.guided import alignment_loss
from itda.training.objective import likelihood, make_objective, minimum_risk
from itda.training.risk import Sampler, expected_risk, sequence_log_probs, text_risk

TEXT = [kind for kind in FEW.values() if kind.data == "text"]
RECURRENT = next(kind for kind in TEXT if kind.decoder == "bahdanau" and kind.recurrent)
TRANSFORMER = next(kind for kind in TEXT if kind.decoder == "transformer")
KINDS = [RECURRENT, TRANSFORMER]
OVERLAP = lambda ids, wanted: 1 - len(set(ids) & set(wanted)) / max(1, len({*ids, *wanted}))  # noqa: E731


def name(kind: object) -> str:
    return kind.name if isinstance(kind, Kind) else str(kind)


# --- the head's two further losses -------------------------------------------------------------------------------


def layer(rows=7, dim=4, vocab=9):
    """Features, an output layer in which two entries are shut out, and targets among the others."""
    bias = drawn(vocab)
    bias[[0, 2]] = -math.inf
    target = torch.tensor([1, 3, 8, 4, 4, 7, 1])[:rows]
    return drawn(rows, dim, grad=True), drawn(rows, dim, grad=True), drawn(vocab, dim, grad=True), bias, target


def gradients(loss, *leaves):
    return torch.autograd.grad(loss, leaves)


@pytest.mark.parametrize("chunk", [512, 3, 1])
def test_the_loss_of_each_token_is_the_plain_one(chunk, monkeypatch):
    monkeypatch.setattr("itda.nn.fused.chunk.CHUNK", chunk)
    features, _, weight, bias, target = layer()
    scale = drawn(len(target))
    bias.requires_grad_()
    fast = token_loss.linear_token_nll(features, weight, bias, target)
    plain = functional.cross_entropy(functional.linear(features, weight, bias), target, reduction="none")
    close(fast, plain)
    leaves = (features, weight, bias)
    for one, other in zip(
        gradients((fast * scale).sum(), *leaves), gradients((plain * scale).sum(), *leaves), strict=True
    ):
        close(one, other)


@pytest.mark.parametrize(("chunk", "smoothing", "strength"), [(512, 0.0, 5.0), (3, 0.1, 5.0), (2, 0.2, 0.0)])
def test_r_drop_is_the_plain_formula(chunk, smoothing, strength, monkeypatch):
    monkeypatch.setattr("itda.nn.fused.chunk.CHUNK", chunk)
    first, second, weight, bias, target = layer()
    bias.requires_grad_()
    allowed = torch.isfinite(bias)
    nll, objective, apart = paired_loss.paired_cross_entropy(first, second, weight, bias, target, smoothing, strength)
    logs = [functional.linear(one, weight, bias)[:, allowed].log_softmax(1) for one in (first, second)]
    wanted = (allowed.cumsum(0) - 1)[target]
    plain_nll = sum(functional.nll_loss(log, wanted, reduction="sum") for log in logs) / 2
    smooth = -sum(log.mean(1).sum() for log in logs) / 2
    kl = [functional.kl_div(a, b, reduction="sum", log_target=True) for a, b in (logs, logs[::-1])]
    plain = (1 - smoothing) * plain_nll + smoothing * smooth + strength / 2 * (kl[0] + kl[1]) / 2
    for fast, slow in ((nll, plain_nll), (objective, plain), (apart, (kl[0] + kl[1]) / 2)):
        close(fast, slow)
    assert not nll.requires_grad
    assert not apart.requires_grad
    leaves = (first, second, weight, bias)
    for one, other in zip(gradients(objective * 3, *leaves), gradients(plain * 3, *leaves), strict=True):
        close(one, other)


@pytest.mark.parametrize("which", ["token_nll", "paired_loss"])
def test_the_logits_never_exist_whole(which):
    """The largest tensor of forward and backward is as large as one chunk of logits, or as a weight."""
    from torch.utils._python_dispatch import TorchDispatchMode

    class Largest(TorchDispatchMode):
        numbers = 0

        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            out = function(*args, **(kwargs or {}))
            for one in out if isinstance(out, (tuple, list)) else (out,):
                if isinstance(one, torch.Tensor):
                    self.numbers = max(self.numbers, one.numel())
            return out

    rows, vocab = 2048, 64
    features, weight = torch.randn(rows, 8, requires_grad=True), torch.randn(vocab, 8, requires_grad=True)
    bias, target = torch.zeros(vocab), torch.randint(0, vocab, (rows,))
    with Largest() as seen:
        if which == "token_nll":
            token_loss.linear_token_nll(features, weight, bias, target).sum().backward()
        else:
            paired_loss.paired_cross_entropy(features, features * 1.1, weight, bias, target, 0.1, 5.0)[1].backward()
    assert seen.numbers <= CHUNK * vocab < rows * vocab / 2


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_the_head_puts_them_in_place(kind):
    model, batch = fresh(kind).eval(), batch_of(kind)
    memory = model.encode(batch.src)
    decoded = model.decoder(batch.tgt_in, memory)
    close(
        model.head.token_nll(decoded, batch.tgt_out, memory).detach(),
        model.head.scores(decoded, batch.tgt_out, memory)[0],
    )
    model.head.label_smoothing = 0.1
    plain, paired = model.loss(batch), make_objective(TrainConfig(r_drop=5.0))(model, batch, 0, 0.0, torch.Generator())
    close(paired.objective, plain.objective)
    close(paired.nll, plain.nll)
    assert abs(paired.parts["divergence"]) < 1e-12, "without dropout the passes are one"
    model.train()
    for module in model.modules():
        if isinstance(module, SequenceDropout):
            module.rate = 0.3
    assert make_objective(TrainConfig(r_drop=5.0))(model, batch, 0, 0.0, torch.Generator()).parts["divergence"] > 1e-3


# --- guided alignment --------------------------------------------------------------------------------------------


def aligned(batch: Batch) -> Batch:
    """A batch in which about half of the target positions are linked, eos never."""
    draw = torch.Generator().manual_seed(3)
    (rows, tgt), src = batch.tgt_out.mask.shape, batch.src.mask.shape[1]
    links = (torch.rand(rows, tgt, src, generator=draw) < 0.2).double()
    links *= batch.src.mask[:, None] * (batch.tgt_out.ids != EOS)[..., None] * batch.tgt_out.mask[..., None]
    return replace(batch, alignment=links / links.sum(2, keepdim=True).clamp(min=1))


@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_guided_alignment_is_the_cross_entropy_of_attention(kind):
    model, batch = fresh(kind).eval(), aligned(batch_of(kind))
    sums = make_objective(TrainConfig(guided_alignment=GuidedAlignmentConfig(0.3)))(
        model, batch, 0, 0.0, torch.Generator()
    )
    alpha, plain = model(batch, weights=True).weights.detach(), model.loss(batch)
    expected = -sum(
        batch.alignment[b, t, i] * math.log(alpha[b, t, i])
        for b, t, i in itertools.product(*map(range, alpha.shape))
        if batch.alignment[b, t, i]
    )
    assert expected > 0
    close(sums.parts["alignment"], expected)
    close(sums.nll, plain.nll)
    close(sums.objective.detach(), plain.objective.detach() + 0.3 * expected)
    taught = batch.alignment > 0
    slow = plain.objective - 0.3 * (batch.alignment[taught] * model(batch, weights=True).weights[taught].log()).sum()
    leaves = [p for p in model.parameters() if p.requires_grad]
    for one, other in zip(gradients(sums.objective, *leaves), gradients(slow, *leaves), strict=True):
        close(one, other, 1e-10)


def test_attention_that_underflowed_can_still_be_taught():
    scores = torch.tensor([[[0.0, 300.0]]], requires_grad=True)
    gold = torch.tensor([[[1.0, 0.0]]])
    loss = alignment_loss(scores.softmax(-1), gold)
    assert torch.isfinite(loss)
    assert not alignment_loss(scores.softmax(-1), torch.zeros_like(gold)).item()
    mild = torch.tensor([[[0.0, 60.0]]], requires_grad=True)
    (gradient,) = torch.autograd.grad(alignment_loss(mild.softmax(-1), gold), mild)
    close(gradient, torch.tensor([[[-1.0, 1.0]]]), 1e-6)


# --- minimum risk ------------------------------------------------------------------------------------------------

WORDS = [token for token in range(VOCAB) if token not in (PAD, BOS, EOS)]
ALL = [ids for length in range(3) for ids in itertools.product(WORDS, repeat=length)]


@torch.no_grad()
def exact_risk(model, batch, risk, sharpness) -> torch.Tensor:
    """Sum over all outputs of up to two tokens, their probabilities multiplied step by step."""
    memory = model.encode(batch.src)
    start = model.decoder.start(memory)
    total = memory.states.new_zeros(len(memory.mask))
    mass = torch.zeros_like(total)
    references = [row[mask].tolist()[:-1] for row, mask in zip(batch.tgt_out.ids, batch.tgt_out.mask, strict=True)]
    for ids in ALL:
        state, probability = start, torch.ones_like(total)
        for previous, token in zip((BOS, *ids), (*ids, EOS), strict=True):
            decoded, state = model.decoder.step(torch.full((len(total),), previous), state)
            probability = probability * model.head.log_probs(decoded, memory)[:, 0, token].exp()
        cost = torch.tensor([risk(ids, tuple(wanted)) for wanted in references], dtype=total.dtype)
        total, mass = total + probability**sharpness * cost, mass + probability**sharpness
    return total / mass


@pytest.mark.parametrize(("kind", "sharpness"), [(RECURRENT, 1.0), (TRANSFORMER, 0.3)], ids=name)
def test_over_all_outputs_its_gradient_is_that_of_the_expected_risk(kind, sharpness):
    model = fresh(kind).eval()
    batch = batch_of(kind, src=(3, 2), tgt=(2, 1))
    model.zero_grad()
    risks = expected_risk(model, batch, [ALL, ALL], OVERLAP, sharpness)
    close(risks.detach(), exact_risk(model, batch, OVERLAP, sharpness))
    lengths = torch.tensor([3.0, 2.0], dtype=torch.float64)
    objective = minimum_risk(lambda *_: [ALL, ALL], OVERLAP, sharpness, 0.0, likelihood)
    sums = objective(model, batch, 0, 0.0, torch.Generator())
    close(sums.objective.detach(), (risks * lengths).sum().detach())
    close(sums.parts["risk"], sums.objective.detach())
    close(sums.nll, model.loss(batch).nll)
    sums.objective.backward()
    parameters = [p for p in model.parameters() if p.grad is not None]
    for seed in range(3):
        draw = torch.Generator().manual_seed(seed)
        step = [1e-5 * torch.randn(p.shape, generator=draw, dtype=p.dtype) for p in parameters]
        ends = []
        for sign in (1.0, -2.0, 1.0):  # there, to the other side, and back
            with torch.no_grad():
                for parameter, change in zip(parameters, step, strict=True):
                    parameter += sign * change
            ends.append((exact_risk(model, batch, OVERLAP, sharpness) * lengths).sum())
        expected = (ends[0] - ends[1]) / 2
        found = sum((p.grad * change).sum() for p, change in zip(parameters, step, strict=True))
        assert abs(expected) > 1e-9
        assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def test_candidates_are_scored_apart_from_each_other():
    kind = RECURRENT
    model, batch = fresh(kind).eval(), batch_of(kind)
    targets, owners = [(5, 6), (), (7,), (4, 4, 4)], [2, 0, 0, 1]
    found = sequence_log_probs(model, batch, targets, torch.tensor(owners)).detach()
    for ids, owner, log_prob in zip(targets, owners, found, strict=True):
        src = batch.src.ids[owner][batch.src.mask[owner]].tolist()[:-1]
        close(log_prob, -model.loss(token_batch([src], [list(ids)])).nll.detach())


def test_samples_are_distinct_keyed_and_drawn_without_dropout():
    kind = TRANSFORMER
    model, batch = fresh(kind), batch_of(kind)
    decode = DecodeConfig(max_length_ratio=1.0, max_length_extra=2)
    model.train()
    sampler = Sampler(20, False, 1, decode)
    found = sampler(model, batch, 4)
    assert model.training
    assert found == sampler(model, batch, 4) != sampler(model, batch, 5)
    assert found != Sampler(20, False, 2, decode)(model, batch, 4)
    alone = replace(
        batch,
        **{side: trimmed(rows_of(getattr(batch, side), torch.tensor([1]))) for side in ("src", "tgt_in", "tgt_out")},
    )
    assert sampler(model, alone, 4) == [found[1]], "neighbours change nothing"
    for some, length in zip(found, (5, 2, 4), strict=True):
        assert len(set(some)) == len(some) <= 20
        assert all(len(ids) <= length + 2 for ids in some)
    wanted = [tuple(row[mask].tolist()[:-1]) for row, mask in zip(batch.tgt_out.ids, batch.tgt_out.mask, strict=True)]
    with_reference = Sampler(20, True, 1, decode)(model, batch, 4)
    for some, reference, also in zip(found, wanted, with_reference, strict=True):
        assert also[0] == reference
        assert set(also) == {reference, *some}


def test_minimum_risk_learns_what_likelihood_did_not():
    """Some updates lower the expected risk of fresh samples."""
    model, batch = fresh(RECURRENT), batch_of(RECURRENT)
    decode = DecodeConfig(max_length_ratio=1.0, max_length_extra=2)
    objective = minimum_risk(Sampler(12, True, 1, decode), OVERLAP, 1.0, 0.0, likelihood)
    optimizer, risks = torch.optim.Adam(model.parameters(), lr=0.02), []
    for step in range(40):
        optimizer.zero_grad()
        sums = objective(model, batch, step, 0.0, torch.Generator())
        (sums.objective / batch.num_targets).backward()
        optimizer.step()
        risks.append(sums.parts["risk"].item() / batch.num_targets)
    assert sum(risks[-5:]) < 0.7 * sum(risks[:5])


# --- sentence metrics --------------------------------------------------------------------------------------------


def test_rouge_l_is_the_longest_common_subsequence():
    def slow(a, b):
        if not (a and b):
            return 0
        return 1 + slow(a[1:], b[1:]) if a[0] == b[0] else max(slow(a[1:], b), slow(a, b[1:]))

    for a, b in itertools.product(["", "a", "ab", "bab", "abcab", "cacb", "bbcaa"], repeat=2):
        expected = 2 * slow(a, b) / (len(a) + len(b)) if a + b else 1.0
        assert rouge_l(list(a), list(b)) == pytest.approx(expected)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "rouge_l"])
def test_a_score_is_between_none_and_all(metric):
    for reference in ("the cat sat on the mat .", "cat", "고양이가 앉았다", "猫が座った。"):
        assert sentence_score(metric, reference, reference) == pytest.approx(1.0)
        assert sentence_score(metric, "", reference) == 0
        assert 0 < sentence_score(metric, reference + " x y", reference) < 1


def test_risk_is_measured_on_text():
    tokenizer = train_tokenizers(TokenizerConfig(kind="words"), lambda: iter([("a", "the cat sat")] * 2), 1).tgt
    risk = text_risk("rouge_l", tokenizer)
    the, cat, sat = tokenizer.encode("the cat sat")
    assert risk((the, cat, sat), (the, cat, sat)) == 0
    assert risk((the, sat), (the, cat, sat)) == pytest.approx(1 - 0.8)
    assert risk((UNK,), (the, cat, sat)) == 1


# --- all of them -------------------------------------------------------------------------------------------------


def part_of(batch: Batch, rows: list[int]) -> Batch:
    """Some rows as a batch of its own, each side trimmed."""
    chosen = torch.tensor(rows)
    src, tgt_in, tgt_out = (trimmed(rows_of(side, chosen)) for side in (batch.src, batch.tgt_in, batch.tgt_out))
    alignment = batch.alignment[chosen][:, : tgt_out.mask.shape[1], : src.mask.shape[1]]
    return Batch(src, tgt_in, tgt_out, tuple(rows), alignment)


CONFIGS = {
    "guided": TrainConfig(guided_alignment=GuidedAlignmentConfig(0.4)),
    "r_drop": TrainConfig(r_drop=3.0),
    "risk": TrainConfig(objective="minimum_risk"),
    "both": TrainConfig(objective="minimum_risk", minimum_risk=MinimumRiskConfig(likelihood=0.3, sharpness=1.0)),
}


@pytest.mark.parametrize("which", CONFIGS)
@pytest.mark.parametrize("kind", KINDS, ids=name)
def test_accumulated_micro_batches_are_one_big_batch(kind, which):
    config = CONFIGS[which]
    model, whole = fresh(kind).eval(), aligned(batch_of(kind, src=(5, 2, 4, 3), tgt=(6, 1, 2, 4)))
    if which == "r_drop":  # dropout is off, so let the second pass differ in another way
        calls = itertools.count()

        def disturb(_module, _inputs, decoded):
            return replace(decoded, features=decoded.features * (1 + 0.2 * (next(calls) % 2)))

        model.decoder.register_forward_hook(disturb)
    if config.objective == "likelihood":
        objective = make_objective(config)
    else:
        risk = config.minimum_risk
        sampler = Sampler(6, True, 1, DecodeConfig(max_length_extra=3))
        objective = minimum_risk(sampler, OVERLAP, risk.sharpness, risk.likelihood, likelihood)

    def summed(batches):
        model.zero_grad()
        found = [objective(model, batch, 3, 0.0, torch.Generator()) for batch in batches]
        for sums in found:
            (sums.objective / whole.num_targets).backward()
        totals = [sum(getattr(sums, field) for sums in found) for field in ("nll", "objective", "count")]
        parts = [sum(sums.parts[key] for sums in found) for key in found[0].parts]
        assert all(part.abs() > 1e-3 for part in parts)
        assert parts
        return [*totals, *parts], [p.grad.clone() for p in model.parameters()]

    values, grads = summed([whole])
    for cut in ([[1], [0, 2], [3]], [[3, 0], [2, 1]]):
        others, other_grads = summed([part_of(whole, rows) for rows in cut])
        for one, other in itertools.chain(zip(values, others, strict=True), zip(grads, other_grads, strict=True)):
            close(one, other, 1e-10)
