"""Laws of the ways to search, against all sequences of a tiny vocabulary: scores, rules, groups, samples, ensembles."""

import copy
import functools
import itertools
import math
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
import torch
from zoo import Kind

from itda.batch import BOS, EOS, PAD, UNK, pad_tokens
from itda.build import build_model
from itda.decode import ensemble
from itda.decode.automaton import Spelling
from itda.decode.diverse import Diversity
from itda.decode.history import Found
from itda.decode.required import ChooseFromBanks, Required
from itda.decode.rules import RuleBook
from itda.decode.sampling import Sampling, sample_keys
from itda.decode.scores import Scoring
from itda.decode.search import Search
from itda.decode.settings import Settings
from itda.decode.wishes import Manners, Wish, make_rules
from itda.nn.encoder_decoder import EncoderDecoder
from itda.text.vocabulary import ListTokenizer

TOKENIZER = ListTokenizer("characters", "nfc", ("a", "+", " "))
SPELLING = Spelling(TOKENIZER)
VOCAB = TOKENIZER.vocab_size
WORDS = [token for token in range(VOCAB) if token not in (PAD, BOS, EOS)]
KINDS = {name: Kind(decoder=name) for name in ("plain", "bahdanau", "feeding", "transformer")}
SOURCES = [[4, 5, 6], [6, 4]]
NOTHING, AS_IT_COMES = Wish(), Manners()
IDS = tuple[int, ...]


@functools.cache
def model_of(name: str, seed: int = 0) -> EncoderDecoder:
    torch.manual_seed(seed)
    if name == "ensemble":
        return ensemble.join([model_of("plain"), model_of("feeding", 1)])
    model = build_model(KINDS[name].config(), VOCAB, VOCAB).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.8)
    return model


@pytest.fixture(params=[*KINDS, "ensemble"])
def name(request: pytest.FixtureRequest) -> str:
    return request.param


def search(
    model: EncoderDecoder,
    limit: int,
    settings: Settings,
    wish: Wish = NOTHING,
    manners: Manners = AS_IT_COMES,
    sources: Sequence[Sequence[int]] = SOURCES,
) -> list[list[Found]]:
    rules = make_rules(SPELLING, [wish] * len(sources), manners, alone=settings.width == 1, replaced=False)
    keys = None
    if settings.sampling is not None:
        keys = sample_keys(settings.sampling.seed, sources, settings.n_best)
    with torch.inference_mode():
        memory = model.encode(pad_tokens([[*ids, EOS] for ids in sources]))
        limits = torch.full((len(sources),), limit)
        return Search(
            model.decoder,
            model.head,
            memory,
            limits,
            settings,
            rules=rules,
            keys=keys,
            banks=banks(rules),
            weights=True,
        ).run()


def banks(rules: RuleBook | None) -> ChooseFromBanks | None:
    if rules is None or not isinstance(rules.rules[-1], Required):
        return None
    return ChooseFromBanks(rules, rules.rules[-1])


@functools.cache
@torch.no_grad()
def every(name: str, sentence: int, limit: int) -> dict[IDS, tuple[float, torch.Tensor | None]]:
    """All sequences up to the limit: their log-probabilities and attention, by teacher forcing."""
    model, found = model_of(name), {}
    memory = model.encode(pad_tokens([[*SOURCES[sentence], EOS]]))
    for length in range(limit + 1):
        each = list(itertools.product(WORDS, repeat=length))
        many = memory.select(torch.zeros(len(each), dtype=torch.long))
        decoded = model.decoder(pad_tokens([[BOS, *ids] for ids in each]), many, weights=True)
        log_probs = model.head.log_probs(decoded, many)
        out = pad_tokens([[*ids, EOS] for ids in each]).ids
        sums = log_probs.gather(2, out[:, :, None]).sum((1, 2)).tolist()
        found |= {
            ids: (total, None if decoded.weights is None else decoded.weights[number])
            for number, (ids, total) in enumerate(zip(each, sums, strict=True))
        }
    return found


def text(ids: IDS) -> str:
    return TOKENIZER.decode(ids)


def ranked(name: str, limit: int, score: Callable[[IDS, float], float], allowed: Callable[[IDS], bool]) -> list:
    """What brute force finds for each sentence: the best allowed sequences with their scores."""
    return [
        sorted(
            ((score(ids, total), ids) for ids, (total, _) in every(name, sentence, limit).items() if allowed(ids)),
            reverse=True,
        )
        for sentence in range(len(SOURCES))
    ]


def check(found: list[list[Found]], expected: list) -> None:
    for mine, all_ in zip(found, expected, strict=True):
        assert [one.score for one in mine] == pytest.approx([score for score, _ in all_[: len(mine)]])
        assert [one.ids for one in mine] == [ids for _, ids in all_[: len(mine)]]


def width(limit: int) -> int:
    return sum(len(WORDS) ** length for length in range(limit + 1))


def average(ids: IDS, total: float) -> float:
    return total / (len(ids) + 1)


@pytest.mark.parametrize(
    ("scoring", "formula"),
    [
        (Scoring("gnmt", 0.6), lambda length, total: total / ((5 + length) / 6) ** 0.6),
        (Scoring("reward", 0.7), lambda length, total: total + 0.7 * length),
        (Scoring("average", 0.5), lambda length, total: total / length**0.5),
    ],
)
def test_a_full_beam_finds_the_best_of_each_scoring(name: str, scoring: Scoring, formula) -> None:
    found = search(model_of(name), 3, Settings(width(3), 5, scoring))
    check(found, ranked(name, 3, lambda ids, total: formula(len(ids) + 1, total), lambda ids: True))


@pytest.mark.parametrize("name", ["bahdanau", "feeding", "ensemble"])
def test_a_full_beam_finds_the_best_coverage(name: str) -> None:
    found = search(model_of(name), 3, Settings(width(3), 5, Scoring(coverage=0.9)))
    for sentence, mine in enumerate(found):
        expected = []
        for ids, (total, weights) in every(name, sentence, 3).items():
            covered = weights.sum(0).clamp(1e-6, 1.0).log().sum()
            expected.append((total / (len(ids) + 1) + 0.9 * float(covered), ids))
        check([mine], [sorted(expected, reverse=True)])
    plain = search(model_of(name), 3, Settings(width(3), 5))
    assert [one.ids for one in plain[0]] != [one.ids for one in found[0]], "it decides something"


def grams(ids: IDS, size: int) -> list[IDS]:
    return [ids[at : at + size] for at in range(len(ids) - size + 1)]


@pytest.mark.parametrize("size", [1, 2])
def test_a_full_beam_without_repeats_is_brute_force(name: str, size: int) -> None:
    found = search(model_of(name), 4, Settings(width(4), 4), manners=Manners(no_repeat_ngram=size))
    check(found, ranked(name, 4, average, lambda ids: len(set(grams(ids, size))) == len(grams(ids, size))))


def test_a_full_beam_pays_for_repetition(name: str) -> None:
    found = search(model_of(name), 3, Settings(width(3), 4), manners=Manners(repetition_penalty=0.8))
    check(found, ranked(name, 3, lambda ids, total: average(ids, total - 0.8 * (len(ids) - len(set(ids)))), bool_of))
    for sentence, mine in enumerate(found):
        for one in mine:
            assert one.log_prob == pytest.approx(every(name, sentence, 3)[one.ids][0])


def bool_of(ids: IDS) -> bool:
    return True


def test_a_full_beam_is_never_too_short(name: str) -> None:
    found = search(model_of(name), 3, Settings(width(3), 4), manners=Manners(min_length=2))
    check(found, ranked(name, 3, average, lambda ids: len(ids) >= 2))


@pytest.mark.parametrize("banned", [("a",), ("a+", " "), ("<unk>", "+ "), ("k>a",)])
def test_a_full_beam_without_banned_text_is_brute_force(name: str, banned: tuple[str, ...]) -> None:
    found = search(model_of(name), 3, Settings(width(3), 4), Wish(must_not=banned))
    check(found, ranked(name, 3, average, lambda ids: not any(phrase in text(ids) for phrase in banned)))


@pytest.mark.parametrize("prefix", ["a", "a+", " "])
def test_a_full_beam_with_a_prefix_is_brute_force(name: str, prefix: str) -> None:
    total = 2 + len(prefix)
    found = search(model_of(name), 2, Settings(width(total), 4), Wish(prefix=prefix))
    check(found, ranked(name, total, average, lambda ids: text(ids).startswith(prefix)))


@pytest.mark.parametrize("phrases", [("+a",), ("a", "+")])
def test_a_full_beam_misses_no_short_text_with_its_phrases(phrases: tuple[str, ...]) -> None:
    """Up to the limit that was given nothing is forced: what is found is as good as the best of these, or better."""
    for name in ("plain", "feeding"):
        wish = Wish(must=tuple((phrase, 1) for phrase in phrases))
        found = search(model_of(name), 2, Settings(width(5), 3), wish)
        expected = ranked(name, 2, average, lambda ids: all(phrase in text(ids) for phrase in phrases))
        for mine, (best, *_) in zip(found, expected, strict=True):
            assert mine[0].score >= best[0] - 1e-9
            assert all(phrase in text(one.ids) for one in mine for phrase in phrases)


def test_banks_find_better_places_than_force() -> None:
    """Without them, an improbable phrase comes when there is no more room for anything else."""
    sources = [[word] * length for word in (4, 5, 6) for length in (1, 2, 3)]
    wish, scores = Wish(must=(("+a", 1),)), {True: 0.0, False: 0.0}
    models = [copy.deepcopy(model_of(name)) for name in KINDS]
    for model in models:
        with torch.no_grad():
            model.head.bias[TOKENIZER.encode("+")] -= 6.0
    for model, shared in itertools.product(models, scores):
        rules = make_rules(SPELLING, [wish] * len(sources), Manners(), alone=False, replaced=False)
        with torch.inference_mode():
            memory, limits = model.encode(pad_tokens([[*ids, EOS] for ids in sources])), torch.full((9,), 6)
            choose, settings = banks(rules) if shared else None, Settings(3)
            found = Search(model.decoder, model.head, memory, limits, settings, rules=rules, banks=choose).run()
        assert all("+a" in text(one.ids) for (one,) in found)
        scores[shared] += sum(one.score for (one,) in found)
    assert scores[True] > scores[False] + 1.0


def test_without_wishes_the_banks_choose_as_a_plain_beam_does(name: str) -> None:
    """A sentence that asks for nothing, beside one that does, is what it is alone."""
    model, settings = model_of(name), Settings(3, 3)
    plain = search(model, 4, settings)
    rules = make_rules(SPELLING, [Wish(), Wish(must=(("+a", 2),))], Manners(), alone=False, replaced=False)
    with torch.inference_mode():
        memory = model.encode(pad_tokens([[*ids, EOS] for ids in SOURCES]))
        limits = torch.tensor([4, 4])
        beside = Search(model.decoder, model.head, memory, limits, settings, rules=rules, banks=banks(rules)).run()
    assert [one.ids for one in beside[0]] == [one.ids for one in plain[0]]
    assert all(text(one.ids).count("+a") >= 2 for one in beside[1])


def test_groups_that_do_not_mind_each_other_are_equal_beams(name: str) -> None:
    narrow = search(model_of(name), 4, Settings(2, 2))
    groups = search(model_of(name), 4, Settings(6, 6, diversity=Diversity(3, 0.0)))
    for alone, together in zip(narrow, groups, strict=True):
        assert [one.ids for one in together] == [one.ids for one in alone]


def test_groups_that_pay_dearly_never_write_the_same_token_at_once(name: str) -> None:
    settings = Settings(4, 4, diversity=Diversity(4, 1e6))
    for found in search(model_of(name), 4, settings, manners=Manners(min_length=1)):
        assert len(found) == 4
        for one, other in itertools.combinations(found, 2):
            assert all(a != b for a, b in zip(one.ids, other.ids, strict=False))


@torch.no_grad()
def naive_groups(model: EncoderDecoder, source: list[int], groups: int, strength: float, limit: int) -> set[IDS]:
    """Diverse greedy search as one would write it first: no states, no batches; a group that is done writes nothing."""
    memory, written, done = model.encode(pad_tokens([[*source, EOS]])), [[] for _ in range(groups)], [False] * groups
    for position in range(limit + 1):
        charge = torch.zeros(VOCAB, dtype=torch.float64)
        for group in range(groups):
            if done[group]:
                continue
            decoded = model.decoder(pad_tokens([[BOS, *written[group]]]), memory)
            log_probs = model.head.log_probs(decoded, memory)[0, -1] - strength * charge
            token = int(log_probs.index_fill(0, torch.tensor([EOS]), -math.inf).argmax())
            done[group] = position == limit or bool(log_probs[EOS] > log_probs[token])
            if position < limit:
                charge[token] += 1  # a beam that closes has another row that would go on with it
            if not done[group]:
                written[group].append(token)
    return {tuple(ids) for ids in written}


def test_diverse_groups_of_one_row_are_the_naive_ones(name: str) -> None:
    sources = [[word] * length for word in (4, 5, 6) for length in (1, 2, 3)]
    found = search(model_of(name), 8, Settings(4, 4, diversity=Diversity(4, 0.7)), sources=sources)
    for source, mine in zip(sources, found, strict=True):
        assert {one.ids for one in mine} == naive_groups(model_of(name), source, 4, 0.7, 8)


def test_the_first_group_is_a_beam_of_its_own(name: str) -> None:
    """It pays for nobody and stops when it is done, while later groups go on; the charge is in no score."""
    sources = [[word] * length for word in (4, 5, 6) for length in (1, 2, 3)]
    greedy = search(model_of(name), 8, Settings(1), sources=sources)
    found = search(model_of(name), 8, Settings(3, 3, diversity=Diversity(3, 1.0)), sources=sources)
    assert sum(len(one[0].ids) > 1 for one in greedy) > 2
    for (alone,), together in zip(greedy, found, strict=True):
        assert alone.ids in [one.ids for one in together]
        for one in together:
            assert one.score == pytest.approx(one.log_prob / (len(one.ids) + 1))


def test_samples_come_as_often_as_they_are_probable(name: str) -> None:
    count = 3000
    found = search(model_of(name), 2, Settings(1, count, sampling=Sampling(seed=4)))
    for sentence, samples in enumerate(found):
        assert len(samples) == count
        drawn, exact = Counter(one.ids for one in samples), every(name, sentence, 2)
        stopped = 0.0
        for ids, (total, _) in exact.items():
            if len(ids) < 2:  # at the limit, eos is not drawn
                probability = math.exp(total)
                stopped += probability
                assert drawn[ids] / count == pytest.approx(probability, abs=4 * (probability / count) ** 0.5 + 1e-3)
        assert sum(count_ for ids, count_ in drawn.items() if len(ids) == 2) / count == pytest.approx(
            1 - stopped, abs=0.04
        )
        for one in samples[:20]:
            assert one.log_prob == pytest.approx(exact[one.ids][0])


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(0.7, 3, 0.9, 0.01, 9)])
def test_neighbours_order_and_number_change_no_sample(name: str, sampling: Sampling) -> None:
    sources = [[4, 5, 6], [6, 4], [5] * 6, [4, 5, 6]]
    found = search(model_of(name), 6, Settings(1, 4, sampling=sampling), sources=sources)
    assert [one.ids for one in found[0]] == [one.ids for one in found[3]]
    assert len({one.ids for sentence in found for one in sentence}) > 2
    for source, together in zip(sources, found, strict=True):
        (alone,) = search(model_of(name), 6, Settings(1, 2, sampling=sampling), sources=[source])
        assert [one.ids for one in alone] == [one.ids for one in together[:2]]


@pytest.mark.parametrize("average_", ensemble.AVERAGES)
def test_an_ensemble_of_one_model_is_that_model(average_: str) -> None:
    twice = ensemble.join([model_of("feeding"), model_of("feeding")], average_)
    mine, other = search(model_of("feeding"), 4, Settings(3, 3)), search(twice, 4, Settings(3, 3))
    for found, expected in zip(other, mine, strict=True):
        assert [one.ids for one in found] == [one.ids for one in expected]
        assert [one.score for one in found] == pytest.approx([one.score for one in expected])


@torch.no_grad()
@pytest.mark.parametrize("average_", ensemble.AVERAGES)
def test_an_ensemble_averages_what_its_members_say(average_: str) -> None:
    members = [model_of("plain"), model_of("feeding", 1), model_of("bahdanau", 2)]
    joined, source = ensemble.join(members, average_), pad_tokens([[4, 5, EOS], [6, EOS]])
    tgt_in = pad_tokens([[BOS, 4, UNK], [BOS, 5]])
    each = torch.stack([m.head.log_probs(m.decoder(tgt_in, m.encode(source)), m.encode(source)) for m in members])
    memory = joined.encode(source)
    decoded = joined.decoder(tgt_in, memory, weights=True)
    mixed = joined.head.log_probs(decoded, memory)
    mean = each.exp().mean(0) if average_ == "probabilities" else each.mean(0).exp()
    torch.testing.assert_close(mixed.exp(), mean / mean.sum(-1, keepdim=True))
    looking = [m.decoder(tgt_in, m.encode(source), weights=True).weights for m in members]
    assert looking[0] is None
    torch.testing.assert_close(decoded.weights, (looking[1] + looking[2]) / 2)
    tgt_out = pad_tokens([[4, UNK, EOS], [5, EOS]])
    nll, correct = joined.head.scores(decoded, tgt_out, memory)
    expected = -mixed.gather(2, tgt_out.ids[:, :, None])[:, :, 0].masked_fill(~tgt_out.mask, 0.0)
    torch.testing.assert_close(nll, expected)
    assert not correct[~tgt_out.mask].any()
    assert float(joined.head.loss(decoded, tgt_out, memory).nll) == pytest.approx(float(expected.sum()))
