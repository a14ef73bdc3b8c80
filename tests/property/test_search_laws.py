"""Laws of beam search, on decoders with real state: small ones written here, and those that itda builds."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import nn

from itda.batch import BOS, EOS, PAD, pad_tokens
from itda.build import build_model
from itda.config import AttentionConfig, Config, DecoderConfig, EncoderConfig, ModelConfig, TransformerConfig
from itda.decode.search import Found, beam_search
from itda.nn.interface import Decoded, Decoder, Head, Memory, State

few = settings(deadline=None, max_examples=10, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
seeds = st.integers(0, 2**20)
CPU = torch.device("cpu")


class PrefixDecoder(Decoder):
    """A random distribution for each (sentence, whole prefix): nothing of the past can be forgotten unseen."""

    STATES = 9973

    def __init__(self, vocab: int, sharpness: float = 2.0) -> None:
        super().__init__()
        self.dim = vocab
        self.table = nn.Parameter(sharpness * torch.randn(self.STATES, vocab, dtype=torch.float64))
        self.gaze = nn.Parameter(torch.randn(self.STATES, 16, dtype=torch.float64))

    def start(self, memory: Memory) -> State:
        flavour = (memory.states * memory.mask[:, :, None]).sum(1)[:, : self.dim]
        return State(memory, flavour, torch.zeros(len(flavour), dtype=torch.long, device=flavour.device))

    def step(self, previous, state):
        prefix = (state.cache * 31 + previous + 7) % self.STATES
        shape = len(state.memory.mask), state.width, -1
        features = self.table[prefix].view(shape) + state.keys[:, None]
        energies = (self.gaze[prefix].view(shape)[:, :, None, :3] * state.memory.states[:, None, :, :3]).sum(-1)
        alphas = energies.masked_fill(~state.memory.mask[:, None], float("-inf")).softmax(-1)
        return Decoded(features.flatten(0, 1)[:, None], alphas.flatten(0, 1)[:, None]), replace(state, cache=prefix)

    def forward(self, tgt_in, memory, *, weights=False):
        return unroll(self, tgt_in, memory)


class GruDecoder(Decoder):
    """A GRU cell with dot attention."""

    def __init__(self, vocab: int, dim: int = 12) -> None:
        super().__init__()
        self.dim = vocab
        self.embed = nn.Embedding(vocab, dim)
        self.cell = nn.GRUCell(2 * dim, dim)
        self.first = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, vocab)
        self.double()
        for parameter in self.parameters():
            nn.init.normal_(parameter)

    def start(self, memory: Memory) -> State:
        mean = (memory.states * memory.mask[:, :, None]).sum(1) / memory.mask.sum(1, keepdim=True)
        return State(memory, self.first(memory.states), (torch.tanh(mean),))

    def step(self, previous, state):
        (hidden,) = state.cache
        query = hidden.view(len(state.memory.mask), state.width, -1)
        energies = (query @ state.keys.mT).masked_fill(~state.memory.mask[:, None], float("-inf"))
        alphas = energies.softmax(-1)
        context = (alphas @ state.memory.states).flatten(0, 1)
        hidden = self.cell(torch.cat([self.embed(previous), context], -1), hidden)
        return Decoded(self.out(hidden)[:, None], alphas.flatten(0, 1)[:, None]), replace(state, cache=(hidden,))

    def forward(self, tgt_in, memory, *, weights=False):
        return unroll(self, tgt_in, memory)


class IdentityHead(Head):
    """Features are the logits."""

    def loss(self, decoded, target, memory):
        raise NotImplementedError

    def predict(self, decoded, memory):
        raise NotImplementedError

    def scores(self, decoded, target, memory):
        nll = -decoded.features.log_softmax(-1).gather(2, target.ids[:, :, None])[:, :, 0]
        return nll.masked_fill(~target.mask, 0), nll < 0

    def log_probs(self, decoded, memory, candidates=None):
        return decoded.features.log_softmax(-1)


class DeafState(State):
    """The fault: beams that go on from somebody else's past."""

    def reorder(self, rows):
        return self


class DeafDecoder(PrefixDecoder):
    """A decoder whose state is not reordered."""

    def start(self, memory):
        state = super().start(memory)
        return DeafState(state.memory, state.keys, state.cache)


def unroll(decoder, tgt_in, memory):
    state, parts = decoder.start(memory), []
    for previous in tgt_in.ids.unbind(1):
        decoded, state = decoder.step(previous, state)
        parts.append(decoded)
    return Decoded(torch.cat([p.features for p in parts], 1), torch.cat([p.weights for p in parts], 1))


def make_memory(lengths, dim=12) -> Memory:
    mask = torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]
    return Memory(torch.randn(*mask.shape, dim, dtype=torch.float64), mask)


def alone(memory: Memory, sentence: int) -> Memory:
    """One sentence without its neighbours and without their padding."""
    one = memory.select(torch.tensor([sentence]))
    length = int(one.mask.sum())
    return replace(one, states=one.states[:, :length], mask=one.mask[:, :length])


@torch.no_grad()
def teacher_forced(decoder, head, memory, sentence, ids):
    """The log-probabilities of ids and eos, and the attention, by `forward`."""
    one = memory.select(torch.tensor([sentence]))
    decoded = decoder(pad_tokens([[BOS, *ids]]), one, weights=True)
    nll = head.scores(decoded, pad_tokens([[*ids, EOS]]), one)[0][0]
    return -nll, None if decoded.weights is None else decoded.weights[0][:, one.mask[0]].numpy()


@torch.no_grad()
def brute_force(decoder, head, memory, sentence, vocab, limit, penalty):
    """All sequences up to the limit with their scores, best first."""
    words = [token for token in range(vocab) if token not in (PAD, BOS, EOS)]
    one = memory.select(torch.tensor([sentence]))
    scored = []
    for length in range(limit + 1):
        every = list(itertools.product(words, repeat=length))
        many = memory.select(torch.tensor([sentence] * len(every)))
        decoded = decoder(pad_tokens([[BOS, *ids] for ids in every]), many)
        nll = head.scores(decoded, pad_tokens([[*ids, EOS] for ids in every]), one)[0].sum(1)
        scored += [(-float(value) / (length + 1) ** penalty, ids) for value, ids in zip(nll, every, strict=True)]
    return sorted(scored, reverse=True)


@torch.no_grad()
def naive_greedy(decoder, head, memory, sentence, limit):
    """The loop that everybody writes first."""
    state, token, ids = decoder.start(alone(memory, sentence)), BOS, []
    while len(ids) < limit:
        decoded, state = decoder.step(torch.tensor([token]), state)
        log_probs = head.log_probs(decoded, state.memory)[0, 0].clone()
        log_probs[[PAD, BOS]] = float("-inf")
        token = int(log_probs.argmax())
        if token == EOS:
            break
        ids.append(token)
    return tuple(ids)


MODELS = {"prefix": PrefixDecoder, "gru": GruDecoder}
for kind, cell, score, feeding, bridge in [
    ("plain", "lstm", "additive", False, "dense"),
    ("plain", "gru", "additive", False, "copy"),
    ("bahdanau", "gru", "additive", False, "dense"),
    ("bahdanau", "lstm", "concat", False, "dense"),
    ("luong", "lstm", "general", True, "dense"),
    ("luong", "gru", "dot", False, "dense"),
    ("luong", "gru", "location", True, "mean"),
    ("gnmt", "lstm", "coverage", False, "dense"),
]:
    MODELS[f"{kind}-{cell}-{score}"] = (kind, cell, score, feeding, bridge)
SHAPES = {
    "transformer": TransformerConfig(num_heads=4, num_kv_heads=2, ffn_dim=10, positions="rotary", activation="swiglu"),
    "ssru": TransformerConfig(num_heads=2, ffn_dim=10, norm="rms", norm_first=False),
}
MODELS |= SHAPES


def make_model(name, vocab, lengths) -> tuple[Decoder, Head, Memory]:
    """A decoder, its head, and a memory of sentences of these lengths, in float64."""
    if name in ("prefix", "gru"):
        return MODELS[name](vocab).eval(), IdentityHead(), make_memory(lengths, vocab if name == "prefix" else 12)
    if name in SHAPES:
        parts = ModelConfig(
            embedding_dim=8,
            encoder=EncoderConfig(kind="transformer", dim=16),
            decoder=DecoderConfig(kind=name, dim=16),
            transformer=SHAPES[name],
        )
    else:
        kind, cell, score, feeding, bridge = MODELS[name]
        parts = ModelConfig(
            embedding_dim=8,
            encoder=EncoderConfig(cell=cell, dim=12, num_layers=2, bidirectional=bridge == "dense"),
            decoder=DecoderConfig(kind=kind, cell=cell, dim=12, num_layers=2, input_feeding=feeding, bridge=bridge),
            attention=AttentionConfig(kind=score, dim=8),
        )
    model = build_model(Config(model=parts), vocab, vocab).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.8)
        sources = pad_tokens([torch.randint(4, vocab, (length,)).tolist() for length in lengths])
        return model.decoder, model.head, model.encode(sources)


def same(left: list[Found], right: list[Found]) -> None:
    assert [found.ids for found in left] == [found.ids for found in right]
    for a, b in zip(left, right, strict=True):
        assert a.score == pytest.approx(b.score, abs=1e-9)
        assert a.token_log_probs == pytest.approx(b.token_log_probs, abs=1e-9)
        assert (a.weights is None) == (b.weights is None)
        if a.weights is not None:
            assert a.weights.shape == b.weights.shape
            np.testing.assert_allclose(a.weights, b.weights, atol=1e-6)


@pytest.mark.parametrize("name", MODELS)
@few
@given(seed=seeds)
def test_beam_1_is_greedy(name, seed):
    torch.manual_seed(seed)
    decoder, head, memory = make_model(name, 9, [3, 5, 1, 4, 2])
    limits = torch.tensor([6, 1, 0, 9, 4])
    found = beam_search(decoder, head, memory, beam_size=1, max_lengths=limits)
    for sentence, ((best,), limit) in enumerate(zip(found, limits.tolist(), strict=True)):
        assert best.ids == naive_greedy(decoder, head, memory, sentence, limit)


@pytest.mark.parametrize("name", MODELS)
@few
@given(seed=seeds, penalty=st.sampled_from([0.0, 0.6, 1.0, 1.7]), n_best=st.sampled_from([1, 4, 15]))
def test_full_width_beam_is_brute_force(name, seed, penalty, n_best):
    torch.manual_seed(seed)
    vocab, limits = (5, [3, 1, 2]) if seed % 2 else (6, [2, 3, 0])
    decoder, head, memory = make_model(name, vocab, [3, 2, 4])
    width = sum((vocab - 3) ** length for length in range(max(limits) + 1))  # as many as there are sequences
    found = beam_search(
        decoder, head, memory, beam_size=width, max_lengths=torch.tensor(limits), n_best=n_best, length_penalty=penalty
    )
    for sentence, limit in enumerate(limits):
        expected = brute_force(decoder, head, memory, sentence, vocab, limit, penalty)[:n_best]
        assert [hypothesis.ids for hypothesis in found[sentence]] == [ids for _, ids in expected]
        assert [hypothesis.score for hypothesis in found[sentence]] == pytest.approx([score for score, _ in expected])


def test_brute_force_sees_a_state_that_is_not_reordered():
    for seed in range(10):
        torch.manual_seed(seed)
        decoder, head, memory = DeafDecoder(6), IdentityHead(), make_memory([3])
        (found,) = beam_search(decoder, head, memory, beam_size=40, n_best=40, max_lengths=torch.tensor([3]))
        expected = brute_force(decoder, head, memory, 0, 6, 3, 1.0)
        assert [hypothesis.score for hypothesis in found] != pytest.approx([score for score, _ in expected])


@pytest.mark.parametrize("name", MODELS)
@few
@given(seed=seeds, beam=st.integers(1, 7), data=st.data())
def test_what_is_found_is_sound(name, seed, beam, data):
    """n_best distinct and sorted, within the limit, and each with the score and attention of teacher forcing."""
    n_best = data.draw(st.integers(1, beam))
    penalty = data.draw(st.sampled_from([0.0, 1.0, 2.0]))
    torch.manual_seed(seed)
    vocab = 8 if seed % 2 else 90  # less and more than a block
    decoder, head, memory = make_model(name, vocab, [3, 1, 4, 2])
    limits = [7, 3, 1, 5]
    found = beam_search(
        decoder,
        head,
        memory,
        beam_size=beam,
        max_lengths=torch.tensor(limits),
        n_best=n_best,
        length_penalty=penalty,
        weights=True,
    )
    for sentence, hypotheses in enumerate(found):
        possible = vocab - 2 if limits[sentence] == 1 else n_best  # one word, or none
        assert len(hypotheses) == len({hypothesis.ids for hypothesis in hypotheses}) == min(n_best, possible)
        assert [h.score for h in hypotheses] == sorted((h.score for h in hypotheses), reverse=True)
        for hypothesis in hypotheses:
            assert hypothesis.finished
            assert len(hypothesis.ids) <= limits[sentence]
            assert not {PAD, BOS, EOS} & set(hypothesis.ids)
            log_probs, alphas = teacher_forced(decoder, head, memory, sentence, hypothesis.ids)
            assert hypothesis.token_log_probs == pytest.approx(log_probs.tolist(), abs=1e-9)
            assert hypothesis.log_prob == pytest.approx(sum(hypothesis.token_log_probs))
            assert hypothesis.score == pytest.approx(hypothesis.log_prob / (len(hypothesis.ids) + 1) ** penalty)
            assert (hypothesis.weights is None) == (alphas is None)
            if alphas is not None:
                np.testing.assert_allclose(hypothesis.weights, alphas, atol=1e-6)
                np.testing.assert_allclose(hypothesis.weights.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
@few
@given(seed=seeds, beam=st.integers(1, 6), data=st.data())
def test_neighbours_and_order_change_nothing(name, seed, beam, data):
    """Each sentence alone, without padding, gives what it gave beside longer ones that leave later or earlier."""
    order = data.draw(st.permutations(range(5)))
    torch.manual_seed(seed)
    decoder, head, memory = make_model(name, 9, [3, 12, 1, 4, 2])
    limits = torch.tensor([5, 14, 0, 2, 8])
    options = {"beam_size": beam, "n_best": min(beam, 3), "weights": True}
    together = beam_search(decoder, head, memory, max_lengths=limits, **options)
    index = torch.tensor(order)
    permuted = beam_search(decoder, head, memory.select(index), max_lengths=limits[index], **options)
    for place, sentence in enumerate(order):
        same(permuted[place], together[sentence])
        single = beam_search(
            decoder, head, alone(memory, sentence), max_lengths=limits[sentence : sentence + 1], **options
        )
        same(single[0], together[sentence])


@few
@given(seed=seeds)
def test_a_wider_beam_over_all_is_never_worse_than_greedy_where_it_is_full(seed):
    torch.manual_seed(seed)
    decoder, head, memory = make_model("gru", 6, [3, 4])
    limits = torch.tensor([3, 3])
    greedy = beam_search(decoder, head, memory, beam_size=1, max_lengths=limits)
    full = beam_search(decoder, head, memory, beam_size=40, max_lengths=limits)
    assert all(b[0].score >= a[0].score - 1e-9 for a, b in zip(greedy, full, strict=True))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("name", MODELS)
def test_cuda_finds_what_the_cpu_finds(name):
    torch.manual_seed(1)
    decoder, head, memory = make_model(name, 90, [3, 12, 1, 4, 2])
    limits = torch.tensor([5, 14, 0, 2, 8])
    options = {"beam_size": 4, "n_best": 3, "weights": True}
    expected = beam_search(decoder, head, memory, max_lengths=limits, **options)
    move = {"device": "cuda"}
    moved = Memory(memory.states.to(**move), memory.mask.to(**move), moved_tree(memory.summary))
    found = beam_search(decoder.cuda(), head.cuda(), moved, max_lengths=limits, **options)
    for a, b in zip(found, expected, strict=True):
        same(a, b)


def moved_tree(tree):
    if isinstance(tree, tuple):
        return tuple(moved_tree(leaf) for leaf in tree)
    return None if tree is None else tree.cuda()
