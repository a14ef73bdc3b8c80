"""Recipes: strict about every key and value, and written so that they read back as they were."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from itda.config import (
    FORMAT,
    Config,
    describe_settings,
    dumps,
    explain,
    load,
    notices,
    override,
    parse,
    problems,
    recipe_names,
    recipe_path,
    unread,
    validate,
    with_budget,
)
from itda.config.keys import TEXTS, Setting, all_keys
from itda.config.read import MIGRATIONS, put
from itda.errors import UserError

SECTIONS = ("data", "tokenizer", "train", "decode")
SETTINGS = [one for one in all_keys().values() if isinstance(one, Setting)]
FINE = 'name = "fine"\ndata.train = "pairs.tsv"\ntrain.updates = 10\n'


def values_of(setting: Setting) -> st.SearchStrategy[Any]:
    """Draw any value that a setting may have."""
    if setting.key == "format":
        return st.just(FORMAT)
    if setting.choices:
        return st.sampled_from(setting.choices)
    if setting.type is bool:
        return st.booleans()
    if setting.type == TEXTS:
        return st.lists(st.text("abcä<>. ", min_size=1).map(str.strip).filter(bool)).map(tuple)
    if setting.type is str:
        return st.text().map(lambda text: "".join(filter(str.isprintable, text)))
    if setting.type is int:
        return st.integers(setting.low, setting.high)
    return st.floats(setting.low, setting.high, allow_nan=False, allow_infinity=False)


@st.composite
def configs(draw: st.DrawFn) -> Config:
    config = Config()
    for setting in SETTINGS:
        config = put(config, setting.key.split("."), draw(values_of(setting)))
    return config


def refusal(text: str) -> str:
    with pytest.raises(UserError) as caught:
        validate(parse(text, "r.toml"), "r.toml")
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith("r.toml")
    return message


@settings(deadline=None, max_examples=30)
@given(configs())
def test_what_is_written_reads_back_the_same(config: Config) -> None:
    assert parse(dumps(config)) == config


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_an_override_sets_its_key_alone_and_reads_text_as_the_keys_type(data: st.DataObject) -> None:
    setting = data.draw(st.sampled_from([one for one in SETTINGS if one.key != "format"]))
    value = data.draw(values_of(setting))
    if isinstance(value, str):
        value = value.strip()
    text = str(value).lower() if isinstance(value, bool) else ",".join(value) if setting.type == TEXTS else str(value)
    changed = override(Config(), f"{setting.key}={text}")
    assert changed == put(Config(), setting.key.split("."), value)


def test_every_default_is_allowed_and_explained() -> None:
    for setting in SETTINGS:
        assert setting.check(setting.default, "default") == setting.default
        assert setting.help
        assert setting.key in explain(setting.key)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.learing_rate = 1", "unknown key 'train.learing_rate'; did you mean 'train.learning_rate'?"),
        ("batch = 1", "unknown key 'batch'; did you mean 'train.batch'?"),
        ("dim = 1", "'model.encoder.dim' or 'model.decoder.dim' or 'model.attention.dim'"),
        ("[trian]\nbatch = 1", "unknown key 'trian'; did you mean 'train'?"),
        ("qqqqqqqq = 1", "unknown key 'qqqqqqqq'; `itda config explain` lists all keys"),
        ("train.batch = 0", "train.batch is 0; it must be a whole number from 1 to 10000000"),
        ("train.batch = true", "train.batch is true; it must be a whole number"),
        ("train.batch = 1.0", "train.batch is 1.0; it must be a whole number"),
        ('train.batch = "32"', 'train.batch is "32"; it must be a whole number'),
        ("data.swap = 1", "data.swap is 1; it must be true or false"),
        ("data.train = false", "data.train is false; it must be text"),
        ('data.train = "a\\nb"', "data.train is"),
        ("train.learning_rate = nan", "train.learning_rate is nan; it must be a number from 0 to 1000"),
        ("train.minutes = inf", "train.minutes is inf"),
        (f"train.minutes = 1{'0' * 400}", "train.minutes is inf"),
        ("train.minutes = 2020-01-01", "train.minutes is 2020-01-01"),
        ("model.dropout = -0.1", "model.dropout is -0.1; it must be a number from 0 to 0.95"),
        ("model.dropout = true", "model.dropout is true"),
        ('tokenizer.model = "wordpiece"', "it must be one of bpe, unigram"),
        ("tokenizer.model = 3", "tokenizer.model is 3; it must be one of bpe, unigram"),
        ("train = 3", "train is 3; it is a section: write [train]"),
        ("train.batch.size = 3", "train.batch is a section; it must be a whole number"),
        ("[[train]]\nbatch = 3", "train is a list; it is a section"),
        ("a = 1\nname = \n", "r.toml, line 2: not valid TOML"),
        ("name = 'a'\nname = 'b'", "r.toml, line 2: not valid TOML"),
        ("format = 99", f"format is 99, and this itda reads up to {FORMAT}"),
        ("format = true", "format is true; it must be a whole number"),
        ("format = 0", "format is 0"),
    ],
)
def test_a_wrong_key_or_value_is_refused_in_one_line(text: str, words: str) -> None:
    assert words in refusal(text)


def test_whole_numbers_are_numbers() -> None:
    config = parse("train.learning_rate = 1\ntrain.minutes = 5")
    assert config.train.learning_rate == 1.0
    assert type(config.train.minutes) is float


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.updates = 0", "no budget"),
        ('data.train = ""', "data.train is empty"),
        ('name = "a/b"', 'name is "a/b"'),
        ('name = ""', "plain folder name"),
        ('model.tie = "all"\ntokenizer.joint = false', "shares one table"),
        ('model.attention.kind = "dot"\nmodel.encoder.dim = 32', "make them equal"),
        ("model.encoder.dim = 33", "must be even"),
        ('model.decoder.bridge = "copy"', "encoder.bidirectional = false"),
        (
            'model.decoder.bridge = "copy"\nmodel.encoder.bidirectional = false\nmodel.encoder.cell = "gru"',
            "equal cell",
        ),
        ('model.encoder.kind = "transformer"\nmodel.decoder.bridge = "copy"', "of a recurrent encoder"),
        ('model.encoder = {kind = "transformer", dim = 30}', "num_heads = 4 heads share it"),
        ('model.decoder = {kind = "transformer", dim = 30}', "model.decoder.dim is 30"),
        (
            'model.decoder = {kind = "transformer", dim = 12}\nmodel.transformer.positions = "rotary"',
            "dim / num_heads is 3; rotary",
        ),
        (
            'model.decoder.kind = "transformer"\nmodel.transformer = {positions = "learned", max_length = 200}',
            "the decoder reads up to 201 positions",
        ),
        (
            'model.encoder.kind = "transformer"\nmodel.transformer.num_kv_heads = 3',
            "equal groups of num_heads = 4",
        ),
        ('model.encoder = {kind = "convolution", kernel_width = 4}', "it must be odd, such as 5"),
        ('model.encoder.kind = "convolution"\nmodel.decoder.bridge = "copy"', "of a recurrent encoder"),
        ('model.decoder = {kind = "ssru", dim = 30}', "num_heads = 4 heads share it"),
        ('model.attention = {kind = "multihead", dim = 30}', "model.attention.num_heads = 4 heads share it"),
        ('data.target_factors = "case"\ntrain.r_drop = 1', "train.r_drop knows words only"),
        ("model.feature_dim = 512", 'set model.tie = "none"'),
        ('model.attention = {kind = "location", kernel_width = 4}', "it must be odd, such as 5"),
        ('model.decoder = {kind = "plain", bridge = "zero"}', "sees of the source"),
        ("model.encoder = {num_layers = 2, bidirectional_layers = 3}", "no more than that"),
        ("model.encoder.residual_from = 1", "model.encoder.residual_from is 1"),
        ("model.decoder.residual_from = 1", "model.decoder.residual_from is 1"),
        ('model.decoder.kind = "gnmt"\nmodel.attention.kind = "dot"\nmodel.encoder.dim = 32', "make them equal"),
        ('tokenizer.kind = "words"\ntokenizer.sampling = 0.1', "tokenizer.sampling needs"),
        ("train.weight_decay = 0.1", "adamw"),
        ("train.learning_rate = 0", "nothing would be learned"),
        ('train.schedule = "inverse-sqrt"', "train.warmup"),
        ("train.patience = 3", "data.valid is empty"),
        ('train.metric = "bleu"', "data.valid is empty"),
        ('train.schedule = "plateau"', "data.valid is empty"),
        ('data.kind = "vectors"\ntokenizer.kind = "words"', "remove [tokenizer]"),
        ('data.kind = "vectors"\ndata.valid = "make:normal"\ntrain.metric = "bleu"', 'must be "loss"'),
        ('data.kind = "vectors"\ntrain.label_smoothing = 0.1', "train.label_smoothing"),
        ('data.kind = "vectors"\ntrain.batch_unit = "tokens"', "train.batch_unit"),
        ('data.kind = "vectors"\nmodel.tie = "all"', "has none"),
        (
            'train.teacher_forcing = {ratio = 0.5, final_ratio = 0.9, schedule = "linear"}',
            "train.teacher_forcing.final_ratio is 0.9, above ratio 0.5",
        ),
        ("train.guided_alignment.weight = 0.1", "data.alignments = FILE"),
        (
            'data.alignments = "a"\ntrain.guided_alignment.weight = 0.1\nmodel.decoder.kind = "plain"',
            "train.guided_alignment teaches attention",
        ),
        (
            'data.alignments = "a"\ntrain.guided_alignment.weight = 0.1\ntrain.r_drop = 1',
            "train.guided_alignment.weight and train.r_drop are both on",
        ),
        ("train.r_drop = 1\ntrain.teacher_forcing.ratio = 0.5", "train.r_drop and train.teacher_forcing are both on"),
        ('data.alignments = "make:dates"', "whose links count characters"),
        (
            'data.alignments = "a"\ndata.alignment_unit = "tokens"\ntokenizer.sampling = 0.1',
            'data.alignment_unit = "tokens"',
        ),
        ("train.r_drop = 1\nmodel.dropout = 0", "model.dropout is 0"),
        ('data.kind = "vectors"\ntrain.r_drop = 1', "train.r_drop is for text"),
        ('data.kind = "vectors"\ntrain.objective = "minimum_risk"', "train.objective is for text"),
        ('data.kind = "vectors"\ndata.alignments = "a"', "data.alignments is for text"),
        ("decode.diverse_groups = 2", "the groups share the beam evenly"),
        ('model.decoder.kind = "plain"\ndecode.coverage_penalty = 0.2', "decode.coverage_penalty reads attention"),
    ],
)
def test_settings_that_contradict_each_other_are_refused(text: str, words: str) -> None:
    given_keys = [line.split(" =")[0] for line in text.splitlines()]
    rest = [line for line in FINE.splitlines() if line.split(" =")[0] not in given_keys]
    assert words in refusal("\n".join([*rest, text]))


def test_a_plain_recipe_has_no_problems_and_notices_name_what_is_not_read() -> None:
    fine = parse(FINE)
    assert validate(fine) is fine
    assert list(problems(fine)) == []
    silent = override(override(fine, "model.decoder.kind=plain"), "model.attention.dim=7")
    assert list(problems(silent)) == []
    assert any("model.attention has no effect" in notice for notice in notices(silent))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('model.encoder = {kind = "transformer", cell = "gru", dim = 36}', ["model.encoder.cell has no effect"]),
        (
            'model.decoder = {kind = "transformer", bridge = "copy", input_feeding = false}\nmodel.attention.dim = 7',
            ["its own attention", "model.decoder.bridge has", "model.decoder.input_feeding has"],
        ),
        ('model.decoder = {kind = "ssru", dim = 12}\nmodel.transformer.positions = "rotary"', []),
        ("model.encoder.kernel_width = 4", ["model.encoder.kernel_width has no effect"]),
        ("model.attention.num_heads = 3", ["model.attention.num_heads has no effect"]),
        ("model.transformer.num_heads = 3", ["neither encoder nor decoder is a Transformer"]),
        ('model.encoder = {kind = "transformer", bidirectional = true}', []),
        ("model.encoder = {bidirectional = false, bidirectional_layers = 1}", ["bidirectional = false"]),
        (
            'model.encoder = {kind = "convolution", bidirectional_layers = 1, layer_norm = true, residual_from = 1}',
            ["bidirectional_layers has no", "encoder.layer_norm has no", "encoder.residual_from has no"],
        ),
        (
            'model.decoder = {kind = "ssru", layer_norm = true, residual_from = 2}',
            ["decoder.layer_norm has no", "decoder.residual_from has no"],
        ),
        (
            "model.encoder.residual_from = 3\nmodel.decoder = {num_layers = 2, residual_from = 3}",
            ["encoder.num_layers = 1", "decoder.num_layers = 2"],
        ),
        ("model.attention = {filters = 3, kernel_width = 3}", ["attention.filters has", "attention.kernel_width has"]),
        ('model.decoder.kind = "gnmt"\nmodel.attention = {kind = "location", dim = 3, kernel_width = 3}', []),
    ],
)
def test_what_a_kind_of_model_does_not_read_is_named(text: str, expected: list[str]) -> None:
    config = validate(parse(FINE + text))
    found = [notice for notice in notices(config) if "no data.valid" not in notice]
    assert len(found) == len(expected)
    assert all(words in notice for words, notice in zip(expected, found, strict=True))


def test_every_setting_without_a_reader_is_named_and_a_read_one_is_not() -> None:
    silent = {
        "attention.dim=999": "attention.kind=dot",
        "attention.num_heads=2": "attention.kind=general",
        "transformer.max_length=9": "encoder.kind=transformer",
        "train.plateau_patience=9": "",
        "train.plateau_factor=0.9": "",
        "train.final_scale=0.1": "train.schedule=constant",
        "train.metric_sentences=9": "train.metric=loss",
        "tokenizer.min_count=2": "tokenizer.kind=sentencepiece",
        "tokenizer.model=unigram": "tokenizer.kind=words",
        "tokenizer.character_coverage=0.95": "",
        "train.teacher_forcing.decay_updates=7": "train.teacher_forcing.ratio=0.5",
        "train.teacher_forcing.final_ratio=0.1": "",
        "train.teacher_forcing.granularity=sequence": "",
        "train.teacher_forcing.form=parallel": "",
        "data.src_dim=3": "",
        "data.factor_separator=/": "data.source_factors=case",
        "train.factor_weight=2": "data.source_factors=case",
        "decode.diversity=2": "",
        "data.alignments=a": "",
        "data.alignment_unit=tokens": "data.alignments=",
        "train.minimum_risk.samples=3": "",
        "train.minimum_risk.sharpness=1": "train.objective=likelihood",
        "train.r_drop=2": "train.objective=minimum_risk",
        "train.label_smoothing=0.2": "train.objective=minimum_risk",
    }
    read = {
        "attention.dim=64": "attention.kind=concat",
        "train.plateau_patience=9": "train.schedule=plateau",
        "tokenizer.min_count=2": "",
        "tokenizer.character_coverage=0.95": "tokenizer.kind=sentencepiece",
        "train.teacher_forcing.decay_updates=7": "train.teacher_forcing.schedule=linear",
        "train.teacher_forcing.granularity=sequence": "train.teacher_forcing.ratio=0.5",
        "train.teacher_forcing.form=parallel": "train.teacher_forcing.schedule=linear",
        "decode.diversity=2": "decode.diverse_groups=5",
        "data.factor_separator=/": "data.source_factors=case, pos:4",
        "train.factor_weight=2": "data.target_factors=case",
        "data.alignment_unit=tokens": "data.alignments=a",
        "train.minimum_risk.samples=3": "train.objective=minimum_risk",
        "train.r_drop=2": "",
        "train.label_smoothing=0.2": "",
    }
    for table, count in ((silent, 1), (read, 0)):
        for assignment, setup in table.items():
            words = [one if one.split(".")[0] in SECTIONS else f"model.{one}" for one in (setup, assignment) if one]
            key = words[-1].partition("=")[0]
            config = load("reverse", words)
            assert sum(notice.startswith(f"{key} has no effect: ") for notice in notices(config)) == count, words


def test_the_table_of_readers_names_settings() -> None:
    for line in unread.TABLE:
        for key in (*line.keys, line.where):
            assert isinstance(all_keys()[key], Setting)


@pytest.mark.parametrize(
    "assignment",
    [
        "train.seed=99999999999999999999999",
        "train.batch=99999999999999999999999999",
        "model.encoder.dim=100000000",
        "decode.max_length_ratio=1e300",
        f"decode.max_length_extra={10**30}",
    ],
)
def test_a_number_that_can_only_be_a_slip_is_refused(assignment: str) -> None:
    with pytest.raises(UserError, match=r"it must be a (whole )?number from \d+ to \d+ "):
        override(Config(), assignment)


def test_every_number_is_bounded() -> None:
    for one in SETTINGS:
        assert one.type not in (int, float) or one.key == "format" or None not in (one.low, one.high), one.key


def test_a_generated_corpus_that_is_measured_on_names_its_split() -> None:
    for split in ("valid", "test"):
        assert f"write make:reverse/{split}" in refusal(f'{FINE}data.{split} = "make:reverse"')
        validate(parse(f'{FINE}data.{split} = "make:reverse/{split}"'))


@pytest.mark.parametrize(
    ("assignment", "words"),
    [
        ("train.batch", "write key=value"),
        ("=3", "write key=value"),
        ("train.btch=3", "did you mean 'train.batch'?"),
        ("train=3", "train is a section"),
        ("train.batch=many", 'train.batch is "many"; it must be a whole number'),
        ("train.batch=1.5", 'train.batch is "1.5"'),
        ("train.minutes=nan", "train.minutes is nan"),
        ("data.swap=yes", 'data.swap is "yes"; it must be true or false'),
        ("format=1", "cannot be overridden"),
    ],
)
def test_a_wrong_override_is_refused(assignment: str, words: str) -> None:
    with pytest.raises(UserError, match=r"^command line: ") as caught:
        override(Config(), assignment)
    assert words in str(caught.value)


def test_a_given_budget_replaces_the_whole_budget() -> None:
    config = parse("train.updates = 100\ntrain.minutes = 3.0")
    assert with_budget(config) is config
    given = with_budget(config, epochs=2)
    assert (given.train.updates, given.train.epochs, given.train.minutes) == (0, 2.0, 0.0)
    with pytest.raises(UserError, match=r"train\.minutes is -1"):
        with_budget(config, minutes=-1)


def test_load_names_the_file_and_takes_overrides_and_budget(tmp_path: Path) -> None:
    file = tmp_path / "한국어 recipe.toml"
    file.write_bytes(b'\xef\xbb\xbfname = "x"\ndata.train = "p.tsv"\n')
    with pytest.raises(UserError, match=r"한국어 recipe\.toml: no budget"):
        load(file)
    config = load(file, ["train.batch=7"], minutes=1.5)
    assert (config.train.batch, config.train.minutes) == (7, 1.5)
    file.write_bytes(b'name = "\xff"')
    with pytest.raises(UserError, match=r"recipe\.toml: byte 9 is not UTF-8"):
        load(file)


def test_older_formats_are_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("itda.config.read.FORMAT", FORMAT + 1)

    def rename(tables: dict[str, Any]) -> dict[str, Any]:
        return {"name": tables.pop("title"), **tables}

    monkeypatch.setitem(MIGRATIONS, FORMAT, rename)
    assert parse(f'format = {FORMAT}\ntitle = "old"').name == "old"


def test_recipes_are_found_by_path_and_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shipped = tmp_path / "shipped"
    shipped.mkdir()
    (shipped / "reverse.toml").write_text(FINE)
    monkeypatch.setattr("itda.config.find.recipe_folders", lambda: [shipped])
    monkeypatch.chdir(tmp_path)
    for name in ("reverse", "reverse.toml", "recipes/reverse.toml"):
        assert recipe_path(name) == shipped / "reverse.toml"
    assert recipe_names() == ["reverse"]
    with pytest.raises(UserError, match=r"no recipe 'revers': .*\(reverse\)"):
        recipe_path("revers")
    (tmp_path / "reverse").write_text(FINE)
    assert recipe_path("reverse") == Path("reverse")


@pytest.mark.parametrize("name", recipe_names())
def test_each_recipe_that_comes_along_is_valid(name: str) -> None:
    assert load(name).name == name


def test_explain_describes_a_key_a_section_and_all() -> None:
    assert "bpe, unigram" in explain("tokenizer.model")
    section = explain("model.encoder")
    assert "model.encoder.cell" in section
    assert "model.decoder" not in section
    assert explain() == explain("all")
    assert len(describe_settings()) == len(SETTINGS)
    with pytest.raises(UserError, match="did you mean 'model'"):
        explain("modle")
