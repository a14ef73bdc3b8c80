"""Fine-tuning: a training that starts from a run, with frozen parts and a vocabulary that grew."""

import json
import random
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import itda
from itda import weights
from itda.batch import Tokens
from itda.config import (
    AttentionConfig,
    Config,
    DataConfig,
    DecoderConfig,
    EncoderConfig,
    ModelConfig,
    TeacherForcingConfig,
    TokenizerConfig,
    TrainConfig,
    dumps,
    load,
)
from itda.config.read import override
from itda.errors import UserError
from itda.nn.grow import grown_bias, grown_rows
from itda.run import TIME_FIELDS, RunFolder, read_metrics
from itda.training import checkpoint
from itda.training.entry import complete
from itda.training.session import open_session

pytestmark = pytest.mark.filterwarnings(
    "ignore:train.freeze", "ignore:.* vocabulary grows", "ignore:tokenizer.vocab_size"
)

WORDS = ["dog", "cat", "runs", "sits", "beach", "water", "red", "birds", "near", "sees", "two", "small"]
NEW = ["Müller", "ice", "한국"]
MODEL = ModelConfig(
    embedding_dim=8,
    dropout=0.2,
    encoder=EncoderConfig(dim=8),
    decoder=DecoderConfig(dim=8),
    attention=AttentionConfig(dim=6),
)
KINDS = {
    "words": TokenizerConfig(kind="words"),
    "characters": TokenizerConfig(kind="characters"),
    "bpe": TokenizerConfig(vocab_size=300, sampling=0.1),
    "unigram": TokenizerConfig(vocab_size=300, model="unigram", joint=False),
}
TIES = {"words": "all", "characters": "none", "bpe": "target", "unigram": "target"}


def lines(words, count, seed):
    draw = random.Random(seed)
    for _ in range(count):
        drawn = draw.choices(words, k=draw.randint(1, 6))
        yield f"{' '.join(drawn)}\t{' '.join(reversed(drawn))}\n"


@pytest.fixture(scope="module", autouse=True)
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finetune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITDA_CACHE", str(folder / "cache"))
        patch.setattr("itda.training.entry.draw_curve", lambda run: None)
        patch.chdir(folder)
        Path("old.tsv").write_text("".join(lines(WORDS, 60, 1)), encoding="utf-8")
        Path("valid.tsv").write_text("".join(lines(WORDS, 9, 3)), encoding="utf-8")
        Path("new.tsv").write_text("".join(lines(WORDS + NEW, 60, 2)), encoding="utf-8")
        yield folder


def recipe(kind="words", data="old.tsv", **train) -> Config:
    settings = {"updates": 6, "batch": 8, "learning_rate": 0.01, "validate_every": 3, "average": 2}
    return Config(
        data=DataConfig(train=data, valid="valid.tsv"),
        tokenizer=KINDS[kind],
        model=replace(MODEL, tie=TIES[kind]),
        train=TrainConfig(**(settings | train)),
    )


@pytest.fixture(scope="module")
def parent():
    """A run to start from, by the kind of its vocabulary."""
    done = {}

    def train(kind="words"):
        if kind not in done:
            done[kind] = Path(f"parent-{kind}")
            itda.train(recipe(kind), run=done[kind])
        return done[kind]

    return train


def finetune(run, parent_run, *overrides, **words):
    return itda.train(tuned(), *overrides, run=run, start_from=parent_run, **words)


def tuned(**train) -> Config:
    """A recipe that says nothing of model and tokenizer."""
    settings = {"updates": 6, "batch": 8, "learning_rate": 0.01, "validate_every": 2}
    return Config(
        data=DataConfig(train="new.tsv", valid="valid.tsv"),
        train=TrainConfig(**(settings | {"teacher_forcing": TeacherForcingConfig(ratio=0.5)} | train)),
    )


def facts_of(run):
    return json.loads((run / "run.json").read_bytes())


def tensors_of(run):
    return weights.read(run / "weights.safetensors")


def contents(run: Path, *but: str):
    """All that a run folder holds, without what a clock said."""

    def timeless(tree):
        if isinstance(tree, dict):
            return {key: timeless(value) for key, value in tree.items() if key not in TIME_FIELDS | {"checksum", *but}}
        return [timeless(item) for item in tree] if isinstance(tree, list) else tree

    found = {}
    for path in sorted(run.rglob("*")):
        if not path.is_file() or path.name.startswith("."):
            continue
        name = path.relative_to(run).as_posix()
        if path.suffix == ".json":
            found[name] = timeless(json.loads(path.read_bytes()))
        elif path.suffix == ".jsonl":
            found[name] = timeless(read_metrics(path))
        else:
            found[name] = path.read_bytes()
    return found


# --- warm start --------------------------------------------------------------------------------------------------


def test_a_run_starts_from_another_runs_weights_and_says_so(parent, tmp_path):
    session = open_session(load_like(tuned(), parent()), tmp_path / "run")
    start = checkpoint.read(tmp_path / "run" / "checkpoints" / "00000000")
    given, theirs = start.weights(), tensors_of(parent())
    assert given.keys() == theirs.keys()
    assert all(torch.equal(given[name], theirs[name]) for name in given)
    assert not start.optimizer["state"]["state"], "the optimizer is fresh"
    complete(session, lambda report: None)
    said = facts_of(tmp_path / "run")["started_from"]
    known = facts_of(parent())
    assert said["weights"] == known["checksums"]["weights.safetensors"]
    assert (said["name"], said["update"], said["commit"]) == (known["name"], known["update"], known["commit"])
    assert str(parent()) not in json.dumps(said)
    assert "00000000" not in [path.name for path in (tmp_path / "run" / "checkpoints").iterdir()]
    assert not torch.equal(tensors_of(tmp_path / "run")["head.weight"], theirs["head.weight"])


def test_a_moving_average_begins_with_the_weights_that_a_run_starts_from(parent, tmp_path):
    session = open_session(load_like(tuned(ema=0.9), parent()), tmp_path / "run")
    theirs = tensors_of(parent())
    with session.shadow.shown():
        shown = {name: value.clone() for name, value in session.seq2seq.model.state_dict().items() if name in theirs}
    session.close()
    assert shown
    assert all(torch.equal(value, theirs[name]) for name, value in shown.items())


def test_a_vocabulary_with_factors_is_taken_over_and_cannot_grow(tmp_path):
    old = recipe()
    itda.train(replace(old, data=replace(old.data, source_factors="case")), run=tmp_path / "old")
    finetune(tmp_path / "new", tmp_path / "old")
    assert facts_of(tmp_path / "new")["update"] == 6
    with pytest.raises(UserError, match="cannot grow"):
        finetune(tmp_path / "grown", tmp_path / "old", "tokenizer.added_from_data=3")


def load_like(config, parent_run, *overrides):
    """The whole recipe of a fine-tuning."""
    from itda.config import changed_keys, with_base

    for one in (f"train.start_from={parent_run}", *overrides):
        config = override(config, one)
    return with_base(config, changed_keys(config))


def test_model_and_tokenizer_are_inherited_and_what_differs_is_named(parent, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('data.train = "new.tsv"\n[train]\nupdates = 1\n')
    start = f"train.start_from={parent()}"
    config = load(file, [start])
    assert config.model == recipe().model
    assert config.tokenizer == recipe().tokenizer
    assert load(file, [start, "model.dropout=0.4"]).model == replace(config.model, dropout=0.4)
    for setting, words in {
        "model.encoder.dim=256": "model.encoder.dim is 8 in parent-words, 256 in the recipe",  # 256 is the default
        "model.tie=none": 'model.tie is "all" in parent-words, "none" in the recipe',
        "tokenizer.vocab_size=90": "tokenizer.vocab_size is 8000 in parent-words, 90 in the recipe",
        "data.kind=vectors": 'data.kind is "text" in parent-words, "vectors" in the recipe',
    }.items():
        with pytest.raises(UserError) as told:
            load(file, [start, setting])
        assert words in str(told.value)
        assert "start from another run" in str(told.value)
    many = [f"model.{part}.num_layers=3" for part in ("encoder", "decoder")]
    with pytest.raises(UserError, match=r"encoder.num_layers is 1.*decoder.num_layers is 1.*and 1 more"):
        load(file, [start, "model.encoder.dim=6", *many, "model.attention.dim=9"])


def test_what_cannot_be_started_from_is_refused_before_anything_is_touched(parent, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(parent(), unfinished)
    with RunFolder.resume(unfinished) as run:
        run.update(checksums={k: v for k, v in run.checksums.items() if "weights" not in k}, status="training")
    for start, words in ((unfinished, "has not ended"), (tmp_path / "none", "no run folder")):
        with pytest.raises(UserError, match=words):
            finetune(tmp_path / "run", start)
        assert not (tmp_path / "run").exists()
    shutil.copytree(parent(), tmp_path / "itself")
    before = contents(tmp_path / "itself")
    with pytest.raises(UserError, match="the run that is to be written"):
        finetune(tmp_path / "itself", tmp_path / "itself", overwrite=True)
    assert contents(tmp_path / "itself") == before
    with pytest.raises(UserError, match=r"tokenizer\.added extends that of train\.start_from"):
        itda.train(recipe(), "tokenizer.added=Müller", run=tmp_path / "run")


EXTENDED = ("tokenizer.added_from_data=50", "train.freeze=encoder")


def test_trained_3_and_resumed_3_is_trained_6_without_the_parent(parent, tmp_path):
    """Bit for bit; what a resume needs is in the folder, so the run that it started from may be gone."""
    shutil.copytree(parent("bpe"), tmp_path / "parent")
    finetune(tmp_path / "whole", tmp_path / "parent", *EXTENDED)
    for moment in (0, 3):
        run = tmp_path / f"run-{moment}"
        shutil.copytree(parent("bpe"), tmp_path / "parent", dirs_exist_ok=True)
        session = open_session(load_like(tuned(), tmp_path / "parent", *EXTENDED), run)
        session.interrupted = lambda session=session, moment=moment: session.standing.step == moment
        if moment:
            complete(session, lambda report: None)
        else:
            session.close()
        shutil.rmtree(tmp_path / "parent")
        finetune(run, tmp_path / "parent", *EXTENDED, resume=True)
        whole, resumed = contents(tmp_path / "whole"), contents(run)
        assert whole.keys() == resumed.keys()
        for name in whole:
            assert whole[name] == resumed[name], name


def test_a_run_without_a_checkpoint_begins_again_only_from_the_same_weights(parent, tmp_path):
    shutil.copytree(parent(), tmp_path / "parent")
    open_session(load_like(tuned(), tmp_path / "parent"), tmp_path / "run").close()
    shutil.rmtree(tmp_path / "run" / "checkpoints")  # a kill before the first one
    finetune(tmp_path / "run", tmp_path / "parent", resume=True)
    finetune(tmp_path / "whole", tmp_path / "parent")
    assert contents(tmp_path / "run") == contents(tmp_path / "whole")
    open_session(load_like(tuned(), tmp_path / "parent"), tmp_path / "other").close()
    shutil.rmtree(tmp_path / "other" / "checkpoints")
    itda.train(recipe(seed=2), run=tmp_path / "parent", overwrite=True)
    with pytest.raises(UserError, match="its weights have changed since"):
        finetune(tmp_path / "other", tmp_path / "parent", resume=True)


def test_vectors_start_from_vectors(tmp_path):
    sides = [(torch.randn(4, 3), torch.randn(5, 2)) for _ in range(4)]
    first = itda.fit(sides, "model.encoder.dim=8", "model.decoder.dim=8", run=tmp_path / "one", updates=2)
    second = itda.fit(sides, run=tmp_path / "two", updates=1, start_from=tmp_path / "one")
    assert second.config.model == first.config.model
    with pytest.raises(UserError, match=r'data\.kind is "vectors" in .*, "text" in the recipe'):
        itda.fit([("a", "b")], "data.kind=text", recipe="fit", run=tmp_path / "no", updates=1, start_from=first.path)


def test_fit_goes_on_from_a_run(parent, tmp_path):
    model = itda.fit([("dog", "cat")], run=tmp_path / "run", updates=2, start_from=parent())
    assert model.config.model == recipe().model
    assert facts_of(tmp_path / "run")["started_from"]["name"] == "run"


# --- frozen parts ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("patterns", "kind", "moves"),
    [
        ("encoder", "words", {"decoder.", "head.", "encoder.embed."}),
        ("decoder,head", "characters", {"encoder.", "decoder.embed."}),
        ("embedding", "bpe", {"encoder.", "decoder.", "head.bias"}),
        ("decoder.attention.*,encoder.embed.*", "unigram", {"encoder.", "decoder.", "head."}),
    ],
)
def test_frozen_parts_stay_bit_for_bit_and_the_others_move(patterns, kind, moves, parent, tmp_path):
    session = open_session(load_like(tuned(), parent(kind), f"train.freeze={patterns}"), tmp_path / "run")
    frozen = {name for name, one in session.seq2seq.model.named_parameters() if not one.requires_grad}
    complete(session, lambda report: None)
    before, after = tensors_of(parent(kind)), tensors_of(tmp_path / "run")
    same = {name for name in after if torch.equal(before[name], after[name])}
    assert frozen
    assert frozen <= same
    moving = same - frozen - set(weights.ties(after))
    assert not moving or all(before[name].abs().max() == 0 for name in moving), moving
    for name in after.keys() - same:
        assert any(name.startswith(part) for part in moves), name
    optimizer = {id(one) for group in session.optimizer.param_groups for one in group["params"]}
    assert all((id(one) in optimizer) == one.requires_grad for one in session.seq2seq.model.parameters())
    facts = facts_of(tmp_path / "run")
    assert facts["trained_parameters"] == sum(
        one.numel() for one in session.seq2seq.model.parameters() if id(one) in optimizer
    )
    assert f"{facts['trained_parameters']:,} of {facts['parameters']:,} parameters train" in session.notices[0]


def test_tied_parts_are_frozen_together_and_it_is_said(parent, tmp_path):
    session = open_session(load_like(tuned(), parent(), "train.freeze=head"), tmp_path / "run")
    session.close()
    assert not any(one.requires_grad for one in (session.seq2seq.model.head.weight, session.seq2seq.model.head.bias))
    assert not session.seq2seq.model.encoder.embed.table.weight.requires_grad
    for tied in ("decoder.embed.table.weight", "encoder.embed.table.weight"):
        assert (
            f"train.freeze: {tied} is frozen too, since it is one tensor with head.weight (model.tie)"
            in session.notices
        )


def test_freezing_everything_or_nothing_is_refused(parent, tmp_path):
    for patterns, words in {
        "*": "freezes every parameter",
        "encoder,decoder,embedding,head": "freezes every parameter",
        "encodr": r"\"encodr\", which names no parameter; it must be one of encoder, decoder, embedding, head",
    }.items():
        with pytest.raises(UserError, match=words):
            finetune(tmp_path / "run", parent(), f"train.freeze={patterns}")
        assert not (tmp_path / "run").exists()


# --- an extended vocabulary --------------------------------------------------------------------------------------


def log_probs(model, src, tgt):
    """What a model says of each next token of a pair, under teacher forcing."""
    from itda.batch import token_batch

    sides = [[one.encode(text)] for one, text in ((model.tokenizers.src, src), (model.tokenizers.tgt, tgt))]
    batch = token_batch(*sides, [0])
    with torch.no_grad():
        memory = model.model.eval().encode(batch.src)
        assert isinstance(batch.tgt_in, Tokens)
        return model.model.head.log_probs(model.model.decoder(batch.tgt_in, memory), memory)


@pytest.mark.parametrize("kind", KINDS)
def test_an_extended_model_says_of_old_sentences_what_it_said(kind, parent, tmp_path):
    """Its log-probabilities are the old ones, renormalised by the new rows alone."""
    settings = ["tokenizer.added_from_data=50"] + (
        ["tokenizer.added=<de>,Müller"] if kind in ("bpe", "unigram") else []
    )
    session = open_session(load_like(tuned(), parent(kind), *settings), tmp_path / "run")
    session.close()
    old, new = itda.load(parent(kind)), session.seq2seq
    grown = facts_of(tmp_path / "run")["started_from"]["vocabulary"]
    for side in ("src", "tgt"):
        before, after = (getattr(one.tokenizers, side) for one in (old, new))
        assert grown[side] == [before.vocab_size, after.vocab_size]
        assert before.vocab_size < after.vocab_size
        for text in ("dog runs near water", "two red birds", "sees"):
            assert before.encode(text) == after.encode(text)
        for text in NEW:
            assert 1 not in after.encode(text)
            assert after.decode(after.encode(text)) == text
            assert text == "ice" or max(after.encode(text)) >= before.vocab_size
    size = old.tokenizers.tgt.vocab_size
    for text in ("dog runs near water", "two red birds"):
        want, got = (log_probs(one, text, text[::-1][:4]) for one in (old, new))
        torch.testing.assert_close(torch.log_softmax(got[..., :size], -1), want, atol=1e-5, rtol=0)
        # a fair start: no new entry is likelier than the old ones are on the whole
        assert got[..., size:].exp().amax() < want[..., 4:].exp().amax()
        assert got[..., size:].exp().amax() > 0


def test_new_rows_are_means_of_the_pieces_that_the_parent_saw(parent, tmp_path):
    config = load_like(tuned(), parent("bpe"), "tokenizer.added=birdsdog")
    session = open_session(config, tmp_path / "run")
    session.close()
    old = itda.load(parent("bpe"))
    table = old.model.encoder.embed.table.weight.detach()
    size = old.tokenizers.src.vocab_size
    ids = old.tokenizers.src.encode("birdsdog")
    assert len(ids) > 1
    new = session.seq2seq.model.encoder.embed.table.weight.detach()
    assert new.shape[0] == size + 2, "one for the start of a word and one for inside"
    noise = new[size] - table[ids].mean(0)
    assert 0 < noise.std() < 0.15 * table[4:].std()
    assert session.seq2seq.model.head.bias[size:].tolist() == [old.model.head.bias[4:].min().item()] * 2


def test_rows_without_an_origin_are_the_mean_of_all():
    rows = torch.arange(24.0).view(6, 4)
    draw = torch.Generator().manual_seed(1)
    grown = grown_rows(rows, [(4, 5), ()], 2, draw)
    assert torch.equal(grown[:6], rows)
    spread = rows[2:].std()
    assert torch.allclose(grown[6], rows[4:].mean(0), atol=float(spread) / 4)
    assert torch.allclose(grown[7], rows[2:].mean(0), atol=float(spread) / 4)
    assert not torch.equal(grown[6], rows[4:].mean(0))
    assert grown_bias(torch.tensor([-9.0, 0.5, 0.2]), 2, 1).tolist() == pytest.approx([-9.0, 0.5, 0.2, 0.2, 0.2])


def test_a_run_that_starts_from_an_extended_one_keeps_its_entries(parent, tmp_path):
    finetune(tmp_path / "one", parent("bpe"), "tokenizer.added=Müller")
    config = load_like(tuned(), tmp_path / "one")
    assert config.tokenizer.added == ()
    second = finetune(tmp_path / "two", tmp_path / "one", "tokenizer.added=Müller,<de>")
    sizes = [itda.load(tmp_path / name).tokenizers.src.vocab_size for name in ("one", "two")]
    assert (sizes[0] - itda.load(parent("bpe")).tokenizers.src.vocab_size, sizes[1] - sizes[0]) == (2, 2)
    pieces = second.tokenizers.src.pieces(second.tokenizers.src.encode("<de> dog (Müller)"))
    assert "▁<de>" in pieces
    assert "Müller" in pieces


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_sampled_subwords_never_cut_an_added_piece(kind, parent):
    from itda.text.extend import extend

    base = replace(itda.load(parent(kind)).tokenizers.src, sampling=0.5)
    tokenizer = extend(base, ["redx", "redxy", "한국"])
    draw = random.Random(1)
    text = "redxy dog 한국sees (redx"
    for _ in range(20):
        ids = tokenizer.sample(text, draw)
        assert tokenizer.decode(ids) == text
        assert [i for i in ids if i >= base.vocab_size] == [i for i in tokenizer.encode(text) if i >= base.vocab_size]


@pytest.mark.parametrize(
    ("kind", "text", "words"),
    [
        ("words", "two words", "is 2 words here; each must be one word"),
        ("characters", "ab", "is 2 characters here; each must be one character"),
        ("bpe", "<s>", "sentencepiece keeps for itself"),
        ("bpe", "<0x41>", "sentencepiece keeps for itself"),
        ("bpe", "<unk>", "sentencepiece keeps for itself"),
    ],
)
def test_what_cannot_be_an_entry_is_refused(kind, text, words, parent, tmp_path):
    with pytest.raises(UserError, match=words):
        finetune(tmp_path / "run", parent(kind), f"tokenizer.added={text}")
    assert not (tmp_path / "run").exists()


def test_a_list_of_texts_is_read_and_written(tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text('data.train="x.tsv"\ntrain = { updates = 1, freeze = ["encoder", "a \\"b\\""] }\n')
    config = load(file)
    assert config.train.freeze == ("encoder", 'a "b"')
    (tmp_path / "again.toml").write_text(dumps(config))
    assert load(tmp_path / "again.toml") == config
    for value in ('"encoder"', "3", '["a", 3]', '["a\\nb"]'):
        file.write_text(f'data.train="x.tsv"\ntrain = {{ updates = 1, freeze = {value} }}\n')
        with pytest.raises(UserError, match=r"train\.freeze is .*; it must be a list of texts"):
            load(file)
