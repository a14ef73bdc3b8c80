"""What the end-to-end tests share: a cache of their own, the command line in this process, and small runs."""

import io
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import torch
from program import TINY, Answer

import itda
from itda.cli.main import run as run_verb


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep stores out of the user's cache; and use one thread, which is quickest for small models on a busy machine."""
    folder = tmp_path_factory.mktemp("cache")
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ITDA_CACHE", str(folder))
        yield folder


@pytest.fixture
def cli(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Callable[..., Answer]]:
    """`itda` in this process, in an empty folder: quick, because torch is imported once."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()

    def call(*words: object, stdin: bytes = b"") -> Answer:
        text = io.TextIOWrapper(io.BufferedReader(io.BytesIO(stdin)), encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", text)
        capsys.readouterr()
        code = run_verb([str(word) for word in words])
        said = capsys.readouterr()
        return Answer(code, said.out, said.err)

    yield call
    torch.set_num_threads(threads)


def train_tiny(folder: Path, *overrides: str, recipe: str = "reverse", settings: Sequence[str] = TINY) -> Path:
    """Train a few updates; the model knows nothing, but the run is whole."""
    model = itda.train(recipe, *settings, *overrides, run=folder, updates=20)
    assert model.path is not None
    return model.path


@pytest.fixture(scope="session")
def tiny_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with attention, hardly trained."""
    return train_tiny(tmp_path_factory.mktemp("runs") / "뒤집기")


@pytest.fixture(scope="session")
def plain_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run without attention, hardly trained."""
    settings = [one for one in TINY if "attention" not in one]
    return train_tiny(tmp_path_factory.mktemp("runs") / "plain", "model.decoder.kind=plain", settings=settings)


@pytest.fixture(scope="session")
def vector_run(cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on real-valued sequences."""
    return train_tiny(tmp_path_factory.mktemp("runs") / "vectors", recipe="lecture-vectors", settings=())
