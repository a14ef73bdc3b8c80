"""A checkpoint gives back bit for bit what was saved, notices damage, and is neither code nor a surprise."""

import ast
import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from itda import durable, weights
from itda.errors import DamagedFileError, UserError
from itda.training import checkpoint
from itda.training.adam import Adam
from itda.training.checkpoint import Keep

SOURCES = Path(weights.__file__).parent


class Tied(nn.Module):
    """A model with a tied tensor, views of one storage, an empty tensor and a buffer of integers."""

    def __init__(self, size: int = 4) -> None:
        super().__init__()
        self.embedding = nn.Embedding(6, size)
        self.output = nn.Linear(size, 6)
        self.output.weight = self.embedding.weight
        self.recurrent = nn.LSTM(size, size)
        self.register_buffer("seen", torch.tensor(3))
        self.register_buffer("empty", torch.zeros(0))
        self.register_buffer("nothing", torch.zeros(0))

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.output(self.recurrent(self.embedding(ids))[0])


KINDS = {
    "adam": lambda p: torch.optim.Adam(p, lr=0.01, fused=True),
    "direct": lambda p: Adam(p, lr=0.01, fused=True),
    "amsgrad": lambda p: torch.optim.Adam(p, lr=0.01, amsgrad=True),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, betas=(0.8, 0.97)),
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "plain": lambda p: torch.optim.SGD(p, lr=torch.tensor(0.1)),
}


def training(kind: str = "adam", updates: int = 3, seed: int = 1) -> tuple[Tied, torch.optim.Optimizer]:
    torch.manual_seed(seed)
    model = Tied()
    optimizer = KINDS[kind](model.parameters())
    advance(model, optimizer, updates)
    return model, optimizer


def advance(model: Tied, optimizer: torch.optim.Optimizer, updates: int) -> None:
    for number in range(updates):
        optimizer.zero_grad()
        model(torch.arange(6).roll(number)[:, None]).square().mean().backward()
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[0]["lr"] * 0.9
        optimizer.step()


def saved(folder: Path, step: int = 3, state: dict[str, Any] | None = None, keep: Keep | None = None) -> Path:
    model, optimizer = training(updates=step)
    return checkpoint.save(folder, step, model.state_dict(), optimizer, state or {}, keep or Keep())


def content(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def packed(optimizer: torch.optim.Optimizer) -> tuple[bytes, bytes]:
    tensors: dict[str, torch.Tensor] = {}
    text = durable.json_bytes(checkpoint.pack(optimizer.state_dict(), tensors, "o"))
    return text, weights.to_bytes(tensors)


@pytest.mark.parametrize("kind", KINDS)
def test_training_goes_on_bit_for_bit(kind: str, tmp_path: Path):
    model, optimizer = training(kind)
    checkpoint.save(tmp_path, 3, model.state_dict(), optimizer, {})
    other, restored = training(kind, updates=1, seed=7)
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    found.load_model(other)
    found.load_optimizer(restored)
    assert packed(restored) == packed(optimizer)
    advance(model, optimizer, 3)
    advance(other, restored, 3)
    assert weights.to_bytes(other.state_dict()) == weights.to_bytes(model.state_dict())
    assert packed(restored) == packed(optimizer)


def test_saving_twice_gives_the_same_bytes_also_from_what_was_loaded(tmp_path: Path):
    saved(tmp_path / "a", state={"b": 1, "a": [1.5]})
    saved(tmp_path / "b", state={"a": [1.5], "b": 1})
    found = checkpoint.load_latest(tmp_path / "a")
    assert found is not None
    model, optimizer = training(seed=5)
    found.load_model(model)
    found.load_optimizer(optimizer)
    checkpoint.save(tmp_path / "c", found.step, model.state_dict(), optimizer, found.state)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")


def test_a_tie_is_saved_once_and_holds_after_loading(tmp_path: Path):
    path = saved(tmp_path)
    data = (path / "weights.safetensors").read_bytes()
    names = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).keys()
    assert "embedding.weight" in names
    assert "output.weight" not in names
    tensors = checkpoint.read(path).weights()
    assert tensors["output.weight"] is tensors["embedding.weight"]
    assert weights.ties(tensors) == {"output.weight": "embedding.weight"}


def test_a_tie_that_only_one_side_has_is_refused_unless_nothing_is_lost(tmp_path: Path):
    path = tmp_path / "w"
    tied, untied = Tied(), Tied()
    untied.output.weight = nn.Parameter(torch.randn(6, 4))
    with pytest.raises(UserError, match=r"one tensor in the file, in the model they are two; check model\.tie"):
        weights.load_into(untied, weights.from_bytes(weights.to_bytes(tied.state_dict()), path), path)
    with pytest.raises(UserError, match=r"differ in the file, in the model they are one tensor; check model\.tie"):
        weights.load_into(tied, weights.from_bytes(weights.to_bytes(untied.state_dict()), path), path)
    weights.load_into(tied, {name: tensor.clone() for name, tensor in Tied().state_dict().items()}, path)


def test_weights_of_another_model_are_refused_by_name_and_nothing_is_half_loaded(tmp_path: Path):
    found = checkpoint.read(saved(tmp_path))
    wide = Tied(size=5)
    before = copy.deepcopy(wide.state_dict())
    with pytest.raises(UserError, match=r"embedding\.weight is float32 \[6, 4\], in the model float32 \[6, 5\]"):
        found.load_model(wide)
    assert all(torch.equal(before[name], tensor) for name, tensor in wide.state_dict().items())
    with pytest.raises(UserError, match=r"missing bias, weight; not in the model: embedding\.weight, empty"):
        found.load_model(nn.Linear(2, 2))
    with pytest.raises(UserError, match="in the model float64"):
        found.load_model(Tied().double())


def test_an_optimizer_of_another_kind_or_size_is_refused(tmp_path: Path):
    found = checkpoint.read(saved(tmp_path))
    with pytest.raises(UserError, match="is of Adam, training uses AdamW"):
        found.load_optimizer(training("adamw")[1])
    with pytest.raises(UserError, match="does not fit"):
        found.load_optimizer(torch.optim.Adam(Tied(size=5).parameters()))
    with pytest.raises(UserError, match="does not fit"):
        found.load_optimizer(torch.optim.Adam(nn.Linear(2, 2).parameters()))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.lists(inner).map(tuple) | st.dictionaries(st.text() | st.integers(), inner),
    max_leaves=8,
)


@settings(deadline=None, max_examples=60)
@given(tree=json_values)
def test_any_state_comes_back_as_it_was(tree: Any):
    tensors: dict[str, torch.Tensor] = {}
    text = durable.json_bytes(checkpoint.pack(tree, tensors, "state"))
    assert tensors == {}
    assert repr(ordered(checkpoint.unpack(json.loads(text), {}))) == repr(ordered(tree))


def ordered(tree: Any) -> Any:
    """The same tree with its keys in order: only that is not kept."""
    if isinstance(tree, dict):
        return {key: ordered(tree[key]) for key in sorted(tree, key=lambda key: (type(key).__name__, key))}
    return type(tree)(ordered(item) for item in tree) if isinstance(tree, (list, tuple)) else tree


def test_tensors_in_a_state_come_back_and_other_things_are_refused(tmp_path: Path):
    state = {"generator": torch.get_rng_state(), "python": (3, (1, 2), None), "best": float("-inf")}
    found = checkpoint.read(saved(tmp_path / "a", state=state))
    assert torch.equal(found.state["generator"], state["generator"])
    assert found.state["python"] == state["python"]
    assert found.state["best"] == state["best"]
    with pytest.raises(TypeError, match=r"state\.path is a"):
        saved(tmp_path / "b", state={"path": tmp_path})
    assert checkpoint.load_latest(tmp_path / "b") is None


FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("damage", ["truncated", "empty", "altered", "missing"])
def test_a_damaged_newest_checkpoint_is_reported_and_the_one_before_is_used(damage: str, file: str, tmp_path: Path):
    for step in (1, 2):
        saved(tmp_path, step)
    path = tmp_path / "00000002" / file
    data = path.read_bytes()
    middle = data.index(b"Adam") if file == "state.json" else len(data) - 3
    path.write_bytes(data[: {"truncated": middle, "empty": 0}.get(damage, len(data))])
    if damage == "altered":
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :])
    if damage == "missing":
        path.unlink()
    with pytest.raises(DamagedFileError, match=re.escape(str(path))):
        checkpoint.read(tmp_path / "00000002")
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.step == 1
    assert len(found.notices) == 1
    assert str(path) in found.notices[0]
    assert found.notices[0].endswith("the checkpoint before it is used")
    (tmp_path / "00000001" / "state.json").unlink()
    with pytest.raises(DamagedFileError, match=r"no checkpoint in .* is whole"):
        checkpoint.load_latest(tmp_path)


def test_training_after_damage_replaces_the_damaged_and_keeps_the_good(tmp_path: Path):
    for step in (1, 2, 3):
        saved(tmp_path, step, keep=Keep(last=3))
    (tmp_path / "00000003" / "state.json").unlink()
    saved(tmp_path, 2, keep=Keep(last=1))
    assert checkpoint.steps(tmp_path) == [2]
    saved(tmp_path, 3, keep=Keep(last=1))
    assert checkpoint.steps(tmp_path) == [3]
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.notices == ()


def test_a_renamed_checkpoint_is_not_believed(tmp_path: Path):
    saved(tmp_path, 1).rename(tmp_path / "00000009")
    with pytest.raises(DamagedFileError, match="was renamed: it is the checkpoint of update 1"):
        checkpoint.load_latest(tmp_path)


def test_no_checkpoint_is_none(tmp_path: Path):
    assert checkpoint.load_latest(tmp_path / "checkpoints") is None
    (tmp_path / "notes").mkdir()
    assert checkpoint.load_latest(tmp_path) is None
    assert checkpoint.steps(tmp_path) == []


def test_what_is_kept_is_the_last_the_best_and_those_to_average(tmp_path: Path):
    for step in range(1, 7):
        saved(tmp_path, step, keep=Keep(last=2, best=2))
    assert checkpoint.steps(tmp_path) == [2, 5, 6]
    saved(tmp_path, 7, keep=Keep(last=1, average=3, best=6))
    assert checkpoint.steps(tmp_path) == [5, 6, 7]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["00000005", "00000006", "00000007"]


def test_an_average_is_taken_in_double_precision_and_keeps_ties_and_integers(tmp_path: Path):
    models, folders = [], []
    for number, scale in enumerate((1e8, 1.0, -1e8), start=1):
        model, optimizer = training(seed=number)
        with torch.no_grad():
            model.embedding.weight.fill_(scale)
            model.seen.fill_(number)
        models.append(copy.deepcopy(model.state_dict()))
        folders.append(checkpoint.save(tmp_path, number, model.state_dict(), optimizer, {}))
    mean = checkpoint.average(folders)
    assert mean["embedding.weight"].unique().tolist() == [torch.tensor(1 / 3).item()], "float32 would answer 0"
    assert mean["output.weight"] is mean["embedding.weight"]
    assert mean["seen"].item() == 3
    expected = torch.stack([state["recurrent.weight_ih_l0"].double() for state in models]).mean(0).float()
    assert torch.equal(mean["recurrent.weight_ih_l0"], expected)
    weights.load_into(Tied(), mean, tmp_path)


def test_older_formats_are_migrated_and_newer_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    saved(tmp_path, 1, state={"epoch": 4})
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    monkeypatch.setitem(checkpoint.MIGRATIONS, 1, lambda body: body | {"state": {"pass": body["state"]["epoch"]}})
    found = checkpoint.load_latest(tmp_path)
    assert found is not None
    assert found.state == {"pass": 4}
    saved(tmp_path, 2)
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 2; this itda reads 1 to 1; install another version"):
        checkpoint.load_latest(tmp_path)


def test_a_newer_weight_format_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights, "FORMAT", 2)
    data = weights.to_bytes({"w": torch.ones(1)})
    monkeypatch.undo()
    with pytest.raises(UserError, match="has format 2; this itda reads up to 1"):
        weights.from_bytes(data, tmp_path / "w")


def test_plain_safetensors_of_others_load(tmp_path: Path):
    import safetensors.torch

    assert weights.from_bytes(safetensors.torch.save({"w": torch.ones(2)}), tmp_path)["w"].tolist() == [1, 1]


UNPICKLERS = {"pickle", "_pickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}


def unpickling(source: str) -> list[str]:
    """What in a source could run code that comes from a file."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        found += [name for name in names if name.split(".")[0] in UNPICKLERS]
        text = ast.unparse(node) if isinstance(node, (ast.Attribute, ast.keyword)) else ""
        found += [text] if text in ("torch.load", "torch.save", "torch.jit.load", "pd.read_pickle") else []
        found += [text] if text.startswith("allow_pickle=") and text != "allow_pickle=False" else []
    return found


def test_nothing_in_our_sources_unpickles():
    found = {str(p.relative_to(SOURCES)): unpickling(p.read_text(encoding="utf-8")) for p in SOURCES.rglob("*.py")}
    assert {name: words for name, words in found.items() if words} == {}
    bad = "import pickle\nfrom shelve import open\ntorch.load(f)\nnp.load(f, allow_pickle=True)"
    assert unpickling(bad) == ["pickle", "shelve", "torch.load", "allow_pickle=True"]
