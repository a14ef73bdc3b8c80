"""Factors and tags: what is packed comes back, what is wrong is told with its line, what depends on them is learned."""

import itertools
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from zoo import FACTOR_SIZES, VOCAB, Kind, batch_of, close, fresh, model_of, stepped

import itda
from itda.batch import Tokens
from itda.build import build_model
from itda.config import DataConfig, TokenizerConfig, parse, problems
from itda.data.catalog import locate
from itda.data.corpus import ReadReport, read_pairs
from itda.data.store import build_store
from itda.decode.ensemble import join
from itda.errors import UserError
from itda.text.annotation import Annotation
from itda.text.case import CASES, recase, split_case
from itda.text.sides import learn_sides
from itda.text.tokenizer import load_tokenizers

KINDS = ("words", "characters", "sentencepiece")
TEXTS = ["Das Haus, McDonald's  USA!", "ein kleines HAUS", "«Über» straße STRASSE İ ﬁn 3x", " a ▁ B", "Ǆ ǅ ß ẞ"]
ANNOTATED = ["Das|ART Haus|N.PL", "ein\u00a0x|N Haus|N", "das|ART  Haus|N"]


def sides(pairs, kind="words", sampling=0.0, **data):
    """The tokenizers that these pairs teach."""
    config = TokenizerConfig(kind=kind, vocab_size=400, sampling=sampling)
    numbered = [(f"pairs, line {number}", *pair) for number, pair in enumerate(pairs, start=1)]
    return learn_sides(DataConfig(**data), config, lambda: iter(numbered), 1)


@pytest.mark.parametrize("word", [word for text in TEXTS for word in text.split()])
def test_a_word_comes_back_from_what_is_left_and_its_case(word: str) -> None:
    left, case = split_case(word)
    assert recase(left, case) == word
    assert case in CASES
    assert case == "mixed" or left == left.lower()


@pytest.mark.parametrize("sampling", [0.0, 0.3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_text_comes_back_with_its_case(kind: str, sampling: float) -> None:
    if sampling and kind != "sentencepiece":
        return
    pair = sides([(text, text) for text in TEXTS], kind, sampling, source_factors="case", target_factors="case")
    for text in TEXTS:
        for ids in (pair.tgt.encode(text), pair.tgt.sample(text, random.Random(3))):
            assert pair.tgt.decode(ids) == pair.tgt.normalize(text)
        assert len(pair.src.surfaces(text)) == len(pair.src.encode(text))
    unknown = pair.tgt.encode("Qq das")
    if kind == "words":
        assert pair.tgt.decode(unknown, {0: "iPod"}) == "iPod das", "what stands in for <unk> keeps its own case"
    folded = pair.src.words(pair.src.encode("HAUS"))
    assert folded == pair.src.words(pair.src.encode("haus"))
    assert pair.joint
    assert "".join(pair.src.surfaces("ein kleines HAUS")).replace(" ", "") == "einkleinesHAUS"


@pytest.mark.parametrize("kind", KINDS)
def test_each_part_of_a_word_carries_its_features(kind: str, tmp_path: Path) -> None:
    pair = sides([(text, "x") for text in ANNOTATED], kind, source_factors="case, pos:3")
    for text, plain in zip(ANNOTATED, ["Das Haus", "ein\u00a0x Haus", "das  Haus"], strict=True):
        ids = pair.src.encode(text)
        values = pair.src.values(ids)["pos"]
        words = [piece.strip(" ▁␣") for piece in pair.src.pieces(ids)]
        assert {value for value, word in zip(values, words, strict=True) if word} <= {"ART", "N", "N.PL"}
        assert [value for value, word in zip(values, words, strict=True) if word][-1].startswith("N")
        assert pair.src.plain(text) == pair.src.decode(ids) == plain
    unseen = pair.src.encode("Haus|NEW")
    assert set(pair.src.values(unseen)["pos"]) == {""}, "a value that training did not see is unknown"
    assert all(number >= pair.src.inner.vocab_size for number in unseen)
    pair.save(tmp_path)
    again = load_tokenizers(tmp_path)
    assert again.fingerprint() == pair.fingerprint() != sides([("a", "x")], kind).fingerprint()
    assert [again.src.encode(text) for text in ANNOTATED] == [pair.src.encode(text) for text in ANNOTATED]
    assert again.sizes() == pair.sizes()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("das|ART Haus", "word 2, 'Haus', has 0 features, and 1 must follow each word: write word|pos"),
        ("das|ART|X Haus|N", "word 1, 'das|ART|X', has 2 features"),
        ("das| Haus|N", "word 1, 'das|', has an empty part"),
        ("|ART Haus|N", "word 1, '|ART', has an empty part"),
    ],
)
def test_a_wrong_number_of_features_is_told_with_its_line(text: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError) as refusal:
        sides([("das|ART", "x"), (text, "x")], source_factors="pos")
    assert str(refusal.value).startswith(f"pairs, line 2: {words}")
    file = tmp_path / "pairs.tsv"
    file.write_text(f"das|ART\tx\n\n{text}\ty\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"pairs\.tsv, line 3: word"):
        build_store(locate(str(file)), sides([("das|ART", "x")], source_factors="pos"), DataConfig(), tmp_path / "s")


def test_another_separator_and_words_that_hold_the_usual_one() -> None:
    pair = sides([("a|b￨N c￨V", "x")], source_factors="pos", factor_separator="￨")
    assert pair.src.values(pair.src.encode("a|b￨N c￨V"))["pos"][-1] == "V"
    assert Annotation(("case",)).split("a|b c")[0] == ["a|b", "c"], "without annotation nothing separates"


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ('source_factors = "case:0"', 'data.source_factors holds "case:0"; a factor is written NAME or NAME:DIM'),
        ('source_factors = "case,,pos"', 'holds ""'),
        ('source_factors = "pos, pos"', 'names "pos" twice'),
        ('target_factors = "pos:3"', 'data.target_factors holds "pos:3"; a factor is written NAME, with'),
        ('factor_separator = " "', "it must be one or more characters that are no spaces"),
        ('tags = "de, de"', 'data.tags names "de" twice'),
        ('tags = "<2de>"', 'data.tags holds "<2de>"; a language is a word'),
        ('valid = "<2de> pairs.tsv"', "and data.tags is empty"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings: str, words: str) -> None:
    config = parse(f'name = "x"\ntrain.updates = 1\n[data]\ntrain = "pairs.tsv"\n{settings}')
    assert any(words in problem for problem in problems(config))


def test_a_tag_is_one_id_in_front_and_text_everywhere_else(tmp_path: Path) -> None:
    pair = sides([("<2de> a b", "x"), ("<2fr> <2de> b", "y")], "characters", tags="de, fr", source_factors="case")
    ids = pair.src.encode("<2fr> a")
    base = pair.src.inner.vocab_size
    assert ids[0] == base + 1
    assert all(number < base for number in ids[1:])
    assert pair.src.encode("<2de> <2fr> a")[1:] == pair.src.inner.encode("<2fr> a"), "further inside it is text"
    assert pair.src.pieces(ids) == pair.src.surfaces("<2fr> a") == ["<2fr>", "a"]
    assert pair.src.decode(ids) == "a"
    assert pair.tgt.vocab_size == pair.sizes()[1], "no tag can be written"
    pair.save(tmp_path)
    assert load_tokenizers(tmp_path).src.encode("<2fr> a") == ids
    for text, words in (("<2es> a", "'es'; this model's tags are for de, fr"), ("a", "the source has no tag")):
        with pytest.raises(UserError, match=words):
            pair.src.encode(text)
        with pytest.raises(UserError, match="pairs, line 2: the"):
            sides([("<2de> a", "x"), (text, "y")], tags="de, fr")


def test_corpora_are_joined_each_with_its_tag(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text("one\teins\n\ttwo\n", encoding="utf-8")
    (tmp_path / "b.tsv").write_text("one\tun\tfr\nzwei\ttwo\ten\n", encoding="utf-8")
    name = f"<2de> {tmp_path}/a.tsv + <2*> {tmp_path}/b.tsv + <2en> swap:{tmp_path}/a.tsv"
    files, report = locate(name), ReadReport()
    found = [(pair.number, pair.src, pair.tgt) for pair in read_pairs(files, report=report)]
    assert found == [
        (1, "<2de> one", "eins"),
        (1, "<2fr> one", "un"),
        (2, "<2en> zwei", "two"),
        (1, "<2en> eins", "one"),
    ]
    assert (report.lines, report.pairs) == (6, 4)
    assert len(report.skipped) == 2
    assert files.reading != locate(name.replace("<2de>", "<2fr>")).reading
    (tmp_path / "b.tsv").write_text("one\tun\tfr\nzwei\ttwo\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"b.tsv, line 2: its third column is ''"):
        list(read_pairs(files))


SMALL = (
    "model.embedding_dim=24",
    "model.encoder.dim=32",
    "model.decoder.dim=32",
    "model.attention.dim=16",
    "model.dropout=0",
    "model.tie=none",
    "tokenizer.kind=words",
    "train.batch=32",
    "train.learning_rate=0.01",
    "train.schedule=constant",
    "train.warmup=0",
    "train.validate_every=1000",
    "train.metric=loss",
    "decode.beam_size=2",
)


def written(path: Path, lines) -> str:
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return f"data.train={path}"


def drawn_words(seed: int, count: int) -> list[list[str]]:
    draw = random.Random(seed)
    return [draw.choices("abcd", k=draw.randint(1, 3)) for _ in range(count)]


def test_what_depends_on_a_factor_alone_is_learned(tmp_path: Path, monkeypatch) -> None:
    """Each word is written as it is, or as the next letter: its feature says which."""
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))
    draw, ways = random.Random(1), {"keep": dict(zip("abcd", "abcd")), "next": dict(zip("abcd", "bcda"))}  # noqa: B905

    def example(words):
        acts = [draw.choice(list(ways)) for _ in words]
        src = " ".join(f"{word}|{act}" for word, act in zip(words, acts, strict=True))
        return src, " ".join(ways[act][word] for word, act in zip(words, acts, strict=True))

    train = written(tmp_path / "train.tsv", ("\t".join(example(words)) for words in drawn_words(1, 600)))
    test = [example(words) for words in drawn_words(2, 40)]
    model = itda.train(
        "reverse", *SMALL, train, "data.valid=", "data.source_factors=act, case:4", run=tmp_path / "run", updates=120
    )
    found = itda.load(tmp_path / "run").generate([src for src, _ in test])
    right = [one.text == tgt for one, (_, tgt) in zip(found, test, strict=True)]
    assert sum(right) >= 36, sum(right)
    assert found[0].src_tokens == tuple(part.split("|")[0] for part in test[0][0].split())
    with pytest.raises(UserError, match="line 2: word 1, 'a', has 0 features"):
        model.generate([test[0][0], "a b"])
    with pytest.raises(UserError, match="pair 1: word 2"):
        model.score([("a|keep b", "x")])


def test_the_same_source_is_copied_or_reversed_as_its_tag_says(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))
    words = drawn_words(3, 500)
    for name, step in (("copy", 1), ("back", -1)):
        written(tmp_path / f"{name}.tsv", (f"{' '.join(one)}\t{' '.join(one[::step])}" for one in words))
    corpus = f"data.train=<2copy> {tmp_path}/copy.tsv + <2back> {tmp_path}/back.tsv"
    itda.train("reverse", *SMALL, corpus, "data.valid=", "data.tags=copy, back", run=tmp_path / "run", updates=200)
    model, test = itda.load(tmp_path / "run"), [" ".join(one) for one in drawn_words(4, 30)]
    for name, step in (("copy", 1), ("back", -1)):
        found = [one.text for one in model.generate(test, target_language=name)]
        assert sum(one == " ".join(src.split()[::step]) for one, src in zip(found, test, strict=True)) >= 27
        assert found == [one.text for one in model.generate([f"<2{name}> {src}" for src in test])]
        assert model.score([("a b", "b a")], target_language=name) == model.score([(f"<2{name}> a b", "b a")])
    each = model.generate(["a b c", "", "a b c", "<2back> "], target_language=["copy", "copy", "back", "back"])
    assert [one.text for one in each] == ["a b c", "", "c b a", ""]
    with pytest.raises(UserError, match="target_language has 1 entries, and there is a text 2"):
        model.generate(["a b", "b a"], target_language=["copy"])
    with pytest.raises(
        UserError, match="begins with <2back>, and the target language copy was asked for; leave one out"
    ):
        model.generate(["<2back> a b"], target_language="copy")
    shown = model.attention("a b", "a b", target_language="copy")
    assert shown.src_tokens == ("<2copy>", "a", "b")
    with pytest.raises(UserError, match=r"line 1: the target language is 'de'; this model's tags are for copy, back"):
        model.generate(["a b"], target_language="de")
    with pytest.raises(UserError, match="line 1: the source has no tag"):
        model.generate(["a b"])


def test_case_travels_beside_the_words_and_is_given_back(tmp_path: Path, monkeypatch) -> None:
    """Words are copied with the case that chance gave them; neither side's vocabulary knows a capital."""
    monkeypatch.setenv("ITDA_CACHE", str(tmp_path / "cache"))
    draw = random.Random(5)

    def line() -> str:
        return " ".join(recase(2 * word, draw.choice(CASES[:3])) for word in draw.sample("abcd", draw.randint(1, 2)))

    train, test = [line() for _ in range(500)], [line() for _ in range(30)]
    corpus = written(tmp_path / "train.tsv", (f"{one}\t{one}" for one in train))
    settings = ("data.valid=", "data.source_factors=case:6", "data.target_factors=case")
    itda.train("reverse", *SMALL, corpus, *settings, run=tmp_path / "run", updates=120)
    model = itda.load(tmp_path / "run")
    found = model.generate(test, n_best=2)
    assert sum(one.text == text for one, text in zip(found, test, strict=True)) >= 27
    assert sorted(model.tokenizers.tgt.inner.entries) == [" aa", " bb", " cc", " dd"]
    sure = next(one for one, text in zip(found, test, strict=True) if one.text == text and " " in text)
    assert sure.factors["case"] == tuple(split_case(word)[1] for word in sure.text.split())
    assert [one.text.lower() for one in sure.n_best] != [sure.text.lower()] * 2
    twice = itda.load([tmp_path / "run", tmp_path / "run"]).generate(test)
    assert [one.text for one in twice] == [one.text for one in found]
    alone = [model.generate([text], n_best=2)[0] for text in test[:4]]
    assert [(one.text, one.factors) for one in alone] == [(one.text, one.factors) for one in found[:4]]
    drawn = model.generate(test[:3], sample={"seed": 1}, n_best=2)
    assert all(one.factors["case"] for many in drawn for one in many.n_best if one.tokens)
    score = model.score([(test[0], found[0].text)])[0]
    assert score.log_prob == pytest.approx(found[0].log_prob, abs=1e-4), "a score is that of the words"
    for asked in ({"prefix": "Aa"}, {"must": ["AA"]}, {"terminology": {"aa": "bb"}}):
        with pytest.raises(UserError, match="line 1: this model searches words without their case"):
            model.generate(["aa"], **asked)
    with pytest.raises(UserError, match="use generate in place of stream"):
        list(model.stream("aa"))


@torch.no_grad()
def test_the_factors_of_a_head_are_what_its_formula_says() -> None:
    """The objective is the words' nll and the factors', given the word beside them; the nll is the words' alone."""
    kind = Kind(factors=True)
    model, batch = model_of(kind), batch_of(kind)
    memory, head = model.encode(batch.src), model.head
    decoded = stepped(model.decoder, batch.tgt_in, memory)
    words, values = batch.tgt_out.ids % VOCAB, batch.tgt_out.ids // VOCAB
    extra = 0.0
    for row, position in batch.tgt_out.mask.nonzero().tolist():
        if value := int(values[row, position]):
            beside = model.decoder.embed.words.table.weight[words[row, position]]
            read = torch.cat([decoded.features[row, position], beside])
            logits = head.outputs[0](torch.tanh(head.hidden(read)))
            extra -= float(logits.log_softmax(0)[value])
    sums = head.loss(decoded, batch.tgt_out, memory)
    assert extra > 0
    assert float(sums.objective - sums.nll) == pytest.approx(extra * head.factor_weight, abs=1e-9)
    close(sums.nll, head.words.loss(decoded, Tokens(words, batch.tgt_out.mask), memory).nll)
    (found,) = head.factors(decoded, words)
    close(found.exp().sum(-1), torch.ones_like(found[..., 0]))
    assert not found[..., :2].exp().any(), "neither no value nor an unknown one is ever written"
    (other,) = head.factors(decoded, (words + 1) % VOCAB)
    assert not torch.allclose(found, other), "a factor depends on the word beside it"


@torch.no_grad()
def test_an_ensemble_says_factors_by_the_mean_of_its_members() -> None:
    kind = Kind(factors=True)
    models, batch = [fresh(kind, seed).eval() for seed in (1, 2)], batch_of(kind)
    whole, words = join(models), batch.tgt_out.ids % VOCAB
    (found,) = whole.head.factors(whole(batch), words)
    close(found, sum(model.head.factors(model(batch), words)[0] for model in models) / 2)


@torch.no_grad()
def test_a_packed_id_is_embedded_as_its_parts() -> None:
    embed = model_of(Kind(factors=True)).encoder.embed
    inner, (cases, pos), sizes = embed.inner, embed.inner.factors, FACTOR_SIZES[0]
    for word, case, part in itertools.product((0, 5, VOCAB - 1), range(sizes[0]), range(sizes[1])):
        expected = torch.cat([inner.words.table.weight[word] + cases.weight[case], pos.weight[part]])
        close(embed(torch.tensor(word + VOCAB * (case + sizes[0] * part))), expected)
    for number in range(2):
        close(embed(torch.tensor(VOCAB * sizes[0] * sizes[1] + number)), embed.tags.weight[number])


def test_ids_of_many_combinations_are_kept_whole(tmp_path: Path) -> None:
    """Six factors of 50 values each make more combinations than 32 bits count; a dozen more than 62 do."""
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"w{n}{f'|v{n}' * 6}\tx\n" for n in range(50)), encoding="utf-8")
    lines = [(pair.src, pair.tgt) for pair in read_pairs(locate(str(file)))]
    pair = sides(lines, source_factors="a, b, c, d, e, f")
    store = build_store(locate(str(file)), pair, DataConfig(), tmp_path / "stores")
    ids = [store.src_ids(number).tolist() for number in range(50)]
    assert ids == [pair.src.encode(src) for src, _ in lines]
    assert max(ids)[0] > 1 << 32
    assert pair.src.values(ids[7]) == dict.fromkeys("abcdef", ("v7",))
    wide = [(src.partition("|")[0] + f"|v{number}" * 12, tgt) for number, (src, tgt) in enumerate(lines)]
    with pytest.raises(UserError, match="more than fit into a 64-bit number; leave out the factor"):
        sides(wide, source_factors="a, b, c, d, e, f, g, h, i, j, k, l")


@torch.no_grad()
@pytest.mark.parametrize(("encoder", "tie"), [("recurrent", "all"), ("recurrent", "none"), ("transformer", "all")])
def test_factors_begin_as_large_as_words_and_what_was_never_seen_as_nothing(encoder: str, tie: str) -> None:
    config = Kind(encoder=encoder, factors=True).config()
    config = replace(config, model=replace(config.model, tie=tie, embedding_dim=8))
    embed = build_model(config, 400, 400, (40, 40), (5,)).encoder.embed
    words = embed.inner.words.table.weight[1:]
    for table in embed.inner.factors:
        assert not table.weight[:2].any()
        assert float(table.weight[2:].std() / words.std()) == pytest.approx(1, abs=0.25)
