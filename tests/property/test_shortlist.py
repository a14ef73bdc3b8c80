"""Laws of writing with few words: neighbours change nothing, the narrow head is the wide one, a certificate is true."""

import numpy as np
import pytest
import torch
from zoo import FEW, VOCAB, Kind, batch_of, fresh

from itda.batch import EOS, PAD, SPECIALS, pad_tokens
from itda.data.lexicon import learn
from itda.decode import ensemble
from itda.decode.scores import Scoring
from itda.decode.search import Search
from itda.decode.settings import Settings
from itda.decode.words import LeadingWords, Shortlist
from itda.nn.encoder_decoder import EncoderDecoder
from itda.nn.heads import SoftmaxHead
from itda.nn.interface import Decoded, Gathered, Memory
from itda.nn.rest import Rest
from itda.nn.rounded import Rounded, weight_limit
from itda.nn.screen import MANY, Screen

TEXT = {name: kind for name, kind in FEW.items() if kind.data == "text"}
SOURCES = [[4, 5, 6], [6, 4], [9, 9, 7, 5, 4], [8]]
OWN = [np.array([10, 8]), np.array([9]), np.array([4, 6, 8, 10]), np.array([], dtype=np.int64)]
FREQUENT = np.array([7])
WIDE = 700  # a vocabulary of many blocks
needs_int8 = pytest.mark.skipif(not weight_limit(), reason="this CPU has no exact int8 product")


@torch.inference_mode()
def search(model: EncoderDecoder, which: list[int], beam: int, words: bool = True) -> list[tuple[int, ...]]:
    memory = model.encode(pad_tokens([[*SOURCES[number], EOS] for number in which]))
    few = Shortlist.of(model.head, FREQUENT, torch.device("cpu")).words([OWN[number] for number in which])
    limits = torch.tensor([6 + len(SOURCES[number]) for number in which])
    settings = Settings(beam, 1, Scoring())
    found = Search(model.decoder, model.head, memory, limits, settings, words=few if words else None).run()
    return [one[0].ids for one in found]


@pytest.mark.parametrize("kind", [Kind(), Kind(decoder="transformer"), Kind(encoder="transformer", decoder="ssru")])
@pytest.mark.parametrize("beam", [1, 3])
def test_neighbours_change_nothing_and_only_own_words_are_written(kind: Kind, beam: int) -> None:
    model = fresh(kind, seed=3).eval()
    with torch.no_grad():
        model.head.bias.zero_()  # it would write one word for ever
    together, everybody = search(model, [0, 1, 2, 3], beam), list(range(len(SOURCES)))
    assert together == [search(model, [number], beam)[0] for number in everybody]
    assert together[::-1] == search(model, everybody[::-1], beam)
    for number, ids in enumerate(together):
        assert set(ids) <= {*range(len(SPECIALS)), *FREQUENT.tolist(), *OWN[number].tolist()}
    assert together != search(model, everybody, beam, words=False)


@pytest.mark.parametrize("name", ["softmax", "ensemble"])
def test_a_list_of_all_words_changes_nothing(name: str) -> None:
    model = fresh(Kind()).eval()
    if name == "ensemble":
        model = ensemble.join([model, fresh(Kind(decoder="transformer"), 1).eval()])
    with torch.inference_mode():
        memory = model.encode(pad_tokens([[*ids, EOS] for ids in SOURCES]))
        words = Shortlist.of(model.head, np.arange(4, 8), torch.device("cpu")).words([np.arange(VOCAB)] * len(SOURCES))
        limits = torch.full((len(SOURCES),), 8)
        runs = [
            Search(model.decoder, model.head, memory, limits, Settings(3, 2), words=one).run() for one in (words, None)
        ]
    for few, whole in zip(*runs, strict=True):
        assert [one.ids for one in few] == [one.ids for one in whole]


def wide_head(seed: int, dim: int = 16, spread: float = 1.0, kind: torch.dtype = torch.float64) -> SoftmaxHead:
    torch.manual_seed(seed)
    head = SoftmaxHead(dim, WIDE)
    with torch.no_grad():
        head.weight.normal_(std=spread)
        head.bias.normal_(std=0.3)
    return head.to(kind)


def decoded(rows: int, dim: int = 16, seed: int = 1, kind: torch.dtype = torch.float64) -> tuple[Decoded, Memory]:
    draw = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, 1, dim, generator=draw, dtype=torch.float64).to(kind)
    return Decoded(features), Memory(features, torch.ones(rows, 1, dtype=torch.bool))


def test_the_narrow_head_ranks_as_the_wide_one_and_knows_nearly_its_normaliser() -> None:
    head, (answer, memory) = wide_head(0, spread=0.3), decoded(6)
    shared, own = torch.arange(20), torch.tensor([[30, 31, PAD], [40, 50, 60], [699, PAD, PAD]])
    narrow, twin = head.narrow(shared)(own), Gathered(head, torch.cat([shared.expand(3, -1), own], dim=1))
    for kept in (None, torch.tensor([2, 0])):
        if kept is not None:
            rows = torch.tensor([4, 5, 0, 1])
            narrow, twin = narrow.select(kept), twin.select(kept)
            answer, memory = Decoded(answer.features[rows]), memory.select(rows)
        few, exact = narrow.log_probs(answer, memory), twin.log_probs(answer, memory)
        assert torch.equal(few == -torch.inf, exact == -torch.inf)
        off = (few - exact).masked_fill(exact == -torch.inf, 0.0)
        real = (exact > -torch.inf).double()
        mean = off.sum(-1, keepdim=True) / real.sum(-1, keepdim=True)
        torch.testing.assert_close(off, mean * real, rtol=0, atol=1e-12)  # one normaliser for all words of a row
        assert mean.abs().max() < 0.2


def test_the_rest_of_a_normal_cloud_is_weighed_truly() -> None:
    draw = torch.Generator().manual_seed(3)
    weight = torch.randn(20_000, 8, generator=draw, dtype=torch.float64) * torch.linspace(0.1, 0.4, 8) + 0.2
    bias, features = 0.1 * torch.randn(20_000, generator=draw, dtype=torch.float64), torch.ones(1, 8).double()
    rest = Rest.of(weight, bias)
    assert rest is not None
    true = (features @ weight.t() + bias).logsumexp(1, keepdim=True)
    torch.testing.assert_close(rest.log_weight(features), true, rtol=0, atol=0.03)
    assert Rest.of(weight[:0], bias[:0]) is None


@needs_int8
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_no_logit_is_further_off_than_the_bound(kind: torch.dtype) -> None:
    for seed, scale in ((0, 1.0), (1, 30.0), (2, 1e-3)):
        head, (answer, _) = wide_head(seed, kind=kind), decoded(40, seed=seed, kind=kind)
        features = answer.features[:, 0] * scale
        features[0] = 0.0
        features[1, 3] *= 1000  # an outlier costs the others their precision
        screen = head.screen()
        assert screen is not None
        approximate, error = screen.approximate(features)
        exact = features.double() @ head.weight.double().t() + (head.bias + head.never).double()
        away = (approximate.double() - exact)[:, [1, *range(3, WIDE)]].abs()
        assert (away <= error).all()
        assert away.max() > 0.02 * error.max()  # and the bound is no idle one


@needs_int8
@pytest.mark.parametrize("side", ["weights", "features"])
def test_the_bound_counts_the_rounding_of_both_sides(side: str) -> None:
    """One side is made of whole numbers, and all that is rounded away is the other's: the worst of it, in line."""
    limit, dim = weight_limit(), 16
    whole, halves = torch.full((1, dim), 1.0), torch.full((1, dim), 40.49)
    whole[0, 0], halves[0, 0] = limit, 127.0 if side == "features" else limit
    weight, features = (whole, halves) if side == "features" else (halves, whole.clone())
    if side == "weights":
        features[0, 0] = 127.0
    screen = Screen.of(weight.expand(8, dim).contiguous(), torch.zeros(8))
    assert screen is not None
    approximate, error = screen.approximate(features)
    away = (approximate - features @ screen.weight.t()).abs().max()
    assert 5 < away <= float(error)


@needs_int8
@pytest.mark.parametrize("alike", [False, True])
def test_what_leads_is_what_is_best(alike: bool) -> None:
    head, (answer, memory) = wide_head(4), decoded(64)
    if alike:  # no bound tells words from each other that differ by so little
        with torch.no_grad():
            head.weight.mul_(1e-4).add_(head.weight[7].clone() * 1e4)
            head.bias.mul_(1e-4)
    screen = head.screen()
    assert screen is not None
    words = LeadingWords(screen, 2)
    few, whole = words.log_probs(answer, memory), head.log_probs(answer, memory)[:, 0]
    values, places = few.topk(2, dim=1)
    assert words._ids is not None
    best = whole.topk(2, dim=1)
    assert torch.equal(words._ids.gather(1, places), best.indices)
    assert ((values - best.values).abs() <= screen.approximate(answer.features[:, 0])[1]).all()
    assert few.shape[1] <= len(SPECIALS) + MANY
    assert screen.tally.rows == 64
    assert (screen.tally.whole > 32) == alike


@needs_int8
@pytest.mark.parametrize("name", [name for name, kind in TEXT.items() if not kind.recurrent or kind.layers == 2])
def test_a_certified_search_is_the_greedy_one(name: str) -> None:
    model = fresh(TEXT[name]).eval()
    batch = batch_of(TEXT[name], src=(5, 2, 4, 3, 1, 6))
    with torch.inference_mode():
        memory, limits = model.encode(batch.src), torch.full((6,), 9)
        screen = model.head.screen()
        assert screen is not None
        both = [
            Search(model.decoder, model.head, memory, limits, Settings(1, 1), words=words).run()
            for words in (LeadingWords(screen, 2), None)
        ]
    for (certified,), (greedy,) in zip(*both, strict=True):
        assert certified.ids == greedy.ids
        assert certified.log_prob == pytest.approx(greedy.log_prob, abs=0.05 * len(greedy.token_log_probs))


@needs_int8
def test_a_row_is_rounded_by_itself() -> None:
    draw = torch.Generator().manual_seed(0)
    values, weight = (
        torch.randn(33, 96, generator=draw),
        Rounded.of(torch.randn(50, 96, generator=draw), weight_limit()),
    )
    values[3] *= 1e6
    together = Rounded.of(values).product(weight)
    for row in range(33):
        assert torch.equal(Rounded.of(values[row : row + 1]).product(weight)[0], together[row])
    for dim in (1, 2):
        left, right = (Rounded(one.whole[:, :dim].contiguous(), one.scale) for one in (Rounded.of(values), weight))
        expected = left.values().double() @ right.values().double().t()
        torch.testing.assert_close(left.product(right).double(), expected, rtol=1e-5, atol=1e-3)
    exact = Rounded.of(values).values().double() @ weight.values().double().t()
    torch.testing.assert_close(together.double(), exact, rtol=1e-5, atol=1e-3)


def test_a_lexicon_learns_what_translates_what() -> None:
    """Source token s means target token s + 10 and comes with token 4 in half of the sentences."""
    draw = np.random.default_rng(0)
    sources = [draw.choice(np.arange(4, 12), size=5, replace=False) for _ in range(400)]
    pairs = [(src, [*(token + 10 for token in src), 4 + 10, 25]) for src in sources]
    lexicon = learn(lambda: iter(pairs), 12, 30, frequent=2, per_token=2, per_sentence=3)
    assert set(lexicon.frequent.tolist()) == {14, 25}
    for token in range(5, 12):
        first, last = lexicon.ends[token - 1], lexicon.ends[token]
        assert last - first == 2
        assert lexicon.targets[first] == token + 10
        assert (np.diff(lexicon.chances[first:last]) <= 0).all()
    assert sorted(lexicon.own([5, 6, 7]).tolist()) == [15, 16, 17]
    assert lexicon.own([0, 1]).tolist() == []
    assert lexicon.own([]).tolist() == []


def test_em_is_that_of_the_formula() -> None:
    """Three sentences by hand: the empty word is -1, and the slow twin has one loop for each sum."""
    pairs = [([0, 1], [0, 1]), ([0], [0]), ([1, 1], [2, 1])]
    chances = {(s, t): 1 / 3 for s in (-1, 0, 1) for t in range(3)}
    for _ in range(5):
        expected = dict.fromkeys(chances, 0.0)
        for src, tgt in pairs:
            for t in tgt:
                total = sum(chances[s, t] for s in [*src, -1])
                for s in [*src, -1]:
                    expected[s, t] += chances[s, t] / total
        chances = {(s, t): n / sum(expected[s, u] for u in range(3)) for (s, t), n in expected.items()}
    lexicon = learn(lambda: iter(pairs), 2, 3, frequent=1, per_token=3, per_sentence=3)
    found = {
        (s, int(lexicon.targets[place])): float(lexicon.chances[place])
        for s in (0, 1)
        for place in range(lexicon.ends[s - 1] if s else 0, lexicon.ends[s])
    }
    assert found == pytest.approx({key: chances[key] for key in found}, abs=1e-6)
    assert sum(found.values()) == pytest.approx(2.0, abs=1e-6)
