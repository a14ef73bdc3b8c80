"""Each call of the system that a save makes fails once, by an error, a kill or a power cut; nothing saved is lost."""

import contextlib
import errno
import itertools
import os
import random
import shutil
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from itda import durable, run, weights
from itda.errors import MachineError
from itda.training import checkpoint
from itda.training.checkpoint import Keep

ERRORS = {"full": errno.ENOSPC, "denied": errno.EACCES, "once": errno.EIO}
FAULTS = (*ERRORS, "kill", "power")
GRAVES = itertools.count()


class Killed(BaseException):
    """Stands for SIGKILL: no handler of ours may catch it, and no call of ours happens after it."""


@dataclass
class Change:
    """A change to a folder that was not fsynced, and how it is undone."""

    paths: list[Path]
    undo: Callable[..., None]

    @property
    def folder(self) -> Path:
        return self.paths[0].parent


class FaultyDisk(durable.Disk):
    """Counts the calls, and lets the one numbered `fail_at` fail: half a write, then the fault.

    full, denied: that call and all later ones that need space (all that write) fail. once: only that call.
    kill: no later call happens. power: as kill, and what was not fsynced may be gone: file contents, and the last
    of the changes to each folder (a random number of them; one folder tells nothing about another).
    """

    def __init__(self, graveyard: Path, fail_at: int | None = None, fault: str = "kill", seed: int = 0) -> None:
        self.graveyard, self.fail_at, self.fault, self.random = graveyard, fail_at, fault, random.Random(seed)
        self.calls: list[str] = []
        self.failed = False
        self._folders: dict[int, Path] = {}
        self._files: dict[int, list[int]] = {}  # handle -> [a second handle, length that was fsynced]
        self._journal: list[Change] = []
        graveyard.mkdir(exist_ok=True)

    def _enter(self, call: str, needs_space: bool = False) -> bool:
        """Count a call; raise the fault, or return True where the caller shall do half of its work first."""
        dead = self.failed and self.fault in ("kill", "power")
        if dead:
            raise Killed
        self.calls.append(call)
        if self.failed and (self.fault == "denied" or (self.fault == "full" and needs_space)):
            raise OSError(ERRORS[self.fault], os.strerror(ERRORS[self.fault]))
        return len(self.calls) - 1 == self.fail_at

    def _fail(self) -> None:
        self.failed = True
        if self.fault in ERRORS:
            raise OSError(ERRORS[self.fault], os.strerror(ERRORS[self.fault]))
        if self.fault == "power":
            for second, length in self._files.values():
                os.ftruncate(second, length)
            left = {folder: self.random.randint(0, n) for folder, n in Counter(c.folder for c in self._journal).items()}
            for change in reversed(self._journal):
                left[change.folder] -= 1
                if left[change.folder] >= 0:
                    with contextlib.suppress(OSError):  # its folder is gone with an older change
                        change.undo(*change.paths)
        raise Killed

    def _bury(self, path: Path) -> Path:
        grave = self.graveyard / str(next(GRAVES))
        os.link(path, grave)
        return grave

    def mkdir(self, path: Path) -> None:
        if self._enter("mkdir", needs_space=True):
            self._fail()
        super().mkdir(path)
        self._journal.append(Change([path], shutil.rmtree))

    def open(self, path: Path, flags: int) -> int:
        if self._enter("open", needs_space=bool(flags & os.O_CREAT)):
            self._fail()
        new = not path.exists()
        handle = super().open(path, flags)
        if path.is_dir():
            self._folders[handle] = path
        else:
            self._files[handle] = [os.dup(handle), 0 if new or flags & os.O_TRUNC else path.stat().st_size]
            if new:
                self._journal.append(Change([path], os.unlink))
        return handle

    def write(self, handle: int, data: memoryview) -> int:
        if self._enter("write", needs_space=True):
            super().write(handle, data[: len(data) // 2])
            self._fail()
        return super().write(handle, data)

    def truncate(self, handle: int, length: int) -> None:
        if self._enter("truncate"):
            self._fail()
        super().truncate(handle, length)

    def fsync(self, handle: int) -> None:
        if self._enter("fsync", needs_space=True):
            self._fail()
        if handle in self._folders:
            self._journal = [change for change in self._journal if change.folder != self._folders[handle]]
        else:
            self._files[handle][1] = os.fstat(handle).st_size

    def close(self, handle: int) -> None:
        fails = False
        try:
            fails = self._enter("close")
        finally:
            self._folders.pop(handle, None)
            super().close(handle)
            # A second handle is kept until `release`: closed or not, what was not fsynced is not safe.
        if fails:
            self._fail()

    def rename(self, source: Path, target: Path) -> None:
        if self._enter("rename"):
            self._fail()
        grave = self._bury(target) if target.is_file() else None

        def undo(target: Path, source: Path) -> None:
            os.rename(target, source)
            if grave:
                os.link(grave, target)

        super().rename(source, target)
        for change in self._journal:  # what lies in a folder moves with it
            change.paths = [target / p.relative_to(source) if source in p.parents else p for p in change.paths]
        self._journal.append(Change([target, source], undo))

    def unlink(self, path: Path) -> None:
        if self._enter("unlink"):
            self._fail()
        grave = self._bury(path)
        super().unlink(path)
        self._journal.append(Change([path], lambda path: os.link(grave, path)))

    def rmdir(self, path: Path) -> None:
        if self._enter("rmdir"):
            self._fail()
        super().rmdir(path)
        self._journal.append(Change([path], os.mkdir))

    def release(self) -> None:
        for second, _ in self._files.values():
            os.close(second)


class QuickDisk(durable.Disk):
    """Where no fault is at work, waiting for a real disk would only cost time."""

    def fsync(self, handle: int) -> None:
        pass


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(durable, "disk", QuickDisk())


@contextlib.contextmanager
def faulty(graveyard: Path, fail_at: int | None, fault: str, seed: int = 0):
    """Work on a faulty disk inside the block; the fault itself ends there."""
    disk = FaultyDisk(graveyard, fail_at, fault, seed)
    before, durable.disk = durable.disk, disk
    try:
        with contextlib.suppress(Killed, MachineError):
            yield disk
    finally:
        durable.disk = before
        disk.release()


def training(step: int, flavour: float = 0.0) -> tuple[torch.nn.Module, torch.optim.Optimizer]:
    """A model and an optimizer as they stand after some updates."""
    torch.manual_seed(step)
    model = torch.nn.Linear(3, 2)
    optimizer = torch.optim.Adam(model.parameters(), lr=1 / step)
    (model(torch.ones(1, 3)).sum() + flavour * model.weight.square().sum()).backward()
    optimizer.step()
    return model, optimizer


def save(folder: Path, step: int, flavour: float = 0.0) -> None:
    model, optimizer = training(step, flavour)
    checkpoint.save(
        folder, step, model.state_dict(), optimizer, {"epoch": step // 10, "best": float("inf")}, Keep(last=2)
    )


def tree(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def whole(folder: Path) -> tuple[int, bytes]:
    """The newest checkpoint, proved whole by loading all of it."""
    found = checkpoint.load_latest(folder)
    assert found is not None
    assert found.notices == ()
    for step in checkpoint.steps(folder):
        checkpoint.read(folder / f"{step:08d}")
    model, optimizer = training(1)
    found.load_model(model)
    found.load_optimizer(optimizer)
    assert found.state == {"epoch": found.step // 10, "best": float("inf")}
    return found.step, weights.to_bytes(found.weights())


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A folder with checkpoints 10 and 20."""
    for step in (10, 20):
        save(tmp_path / "begun", step)
    return tmp_path / "begun"


def count(start: Path, room: Path, work: Callable[[Path], None]) -> int:
    shutil.copytree(start, room / "counted")
    with faulty(room / "graves", None, "kill") as disk:
        work(room / "counted")
    shutil.rmtree(room / "counted")
    return len(disk.calls)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_each_call_of_a_save_leaves_the_old_or_the_new_checkpoint(fault: str, begun: Path, tmp_path: Path):
    calls = count(begun, tmp_path, lambda folder: save(folder, 30))
    assert calls >= 20, "the save goes through the seam"
    shutil.copytree(begun, tmp_path / "smooth")
    for step in (30, 40):
        save(tmp_path / "smooth", step)
    seen = set()
    for number in range(calls):
        folder = tmp_path / f"{number}"
        shutil.copytree(begun, folder)
        with faulty(tmp_path / "graves", number, fault, seed=number) as disk:
            save(folder, 30)
        assert disk.failed
        step, _ = whole(folder)
        assert step in (20, 30)
        seen.add(step)
        if step == 20:
            save(folder, 30)
        save(folder, 40)
        assert tree(folder) == tree(tmp_path / "smooth")
        shutil.rmtree(folder)
    assert seen == {20, 30}


@pytest.mark.parametrize("fault", ["kill", "power"])
def test_a_second_kill_during_recovery(fault: str, begun: Path, tmp_path: Path):
    calls = count(begun, tmp_path, lambda folder: save(folder, 20, flavour=1.0))
    for first in range(calls):
        broken = tmp_path / "broken"
        shutil.copytree(begun, broken)
        with faulty(tmp_path / "graves", first, fault, seed=first):
            save(broken, 20, flavour=1.0)
        recovery = count(broken, tmp_path, lambda folder: checkpoint.load_latest(folder))
        for second in range(recovery):
            folder = tmp_path / "again"
            shutil.copytree(broken, folder)
            with faulty(tmp_path / "graves", second, fault, seed=second):
                checkpoint.load_latest(folder)
            assert whole(folder)[0] == 20
            save(folder, 30)
            assert checkpoint.steps(folder) == [20, 30]
            shutil.rmtree(folder)
        shutil.rmtree(broken)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_checkpoint_that_is_replaced_stays_until_the_new_one_is_safe(fault: str, begun: Path, tmp_path: Path):
    old = whole(begun)
    calls = count(begun, tmp_path, lambda folder: save(folder, 20, flavour=1.0))
    shutil.copytree(begun, tmp_path / "smooth")
    save(tmp_path / "smooth", 20, flavour=1.0)
    new = whole(tmp_path / "smooth")
    assert new != old
    for number in range(calls):
        folder = tmp_path / f"{number}"
        shutil.copytree(begun, folder)
        with faulty(tmp_path / "graves", number, fault, seed=number):
            save(folder, 20, flavour=1.0)
        seen = checkpoint.latest(folder)
        assert seen is not None
        assert seen.step == 20, "a reader that may change nothing finds it too"
        assert whole(folder) in (old, new)
        save(folder, 20, flavour=1.0)
        assert tree(folder) == tree(tmp_path / "smooth")


def begin(path: Path) -> None:
    """A finished run, with weights of ones."""
    with run.RunFolder.create(path) as folder:
        folder.write_config("old")
        finish(folder, 1.0)
        save(folder.checkpoints, 10)


def finish(folder: run.RunFolder, value: float) -> None:
    folder.finish({"w": torch.full((3,), value)}, update=10)


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_a_run_is_finished(fault: str, tmp_path: Path):
    begin(tmp_path / "begun")

    def again(path: Path) -> None:
        with run.RunFolder.resume(path) as folder:
            finish(folder, 2.0)

    calls = count(tmp_path / "begun", tmp_path, again)
    shutil.copytree(tmp_path / "begun", tmp_path / "smooth")
    again(tmp_path / "smooth")
    for number in range(calls):
        path = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "begun", path)
        with faulty(tmp_path / "graves", number, fault, seed=number):
            again(path)
        model = torch.nn.ParameterDict({"w": torch.zeros(3)})
        run.RunFolder.open(path).load_weights(model)
        assert model["w"].tolist() in ([1.0] * 3, [2.0] * 3)
        again(path)
        assert tree(path) == tree(tmp_path / "smooth")


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_a_run_is_overwritten_never_mixes_two_runs(fault: str, tmp_path: Path):
    begin(tmp_path / "begun")

    def overwrite(path: Path) -> None:
        with run.RunFolder.create(path, overwrite=True) as folder:
            folder.write_config("new")

    calls = count(tmp_path / "begun", tmp_path, overwrite)
    for number in range(calls):
        path = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "begun", path)
        with faulty(tmp_path / "graves", number, fault, seed=number):
            overwrite(path)
        with run.RunFolder.resume(path) as folder:
            folder.verify()
            if folder.facts["status"] == "done":
                assert tree(path) == tree(tmp_path / "begun")
            else:
                assert folder.facts["status"] == "new"
                assert set(tree(path)) <= {".lock", "run.json", "config.toml"}
                if folder.has("config.toml"):
                    assert folder.config_path.read_text() == "new"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_while_a_run_is_created(fault: str, tmp_path: Path):
    def work(path: Path) -> None:
        run.RunFolder.create(path / "a" / "b").close()

    (tmp_path / "empty").mkdir()
    calls = count(tmp_path / "empty", tmp_path, work)
    for number in range(calls):
        path = tmp_path / f"{number}"
        path.mkdir()
        with faulty(tmp_path / "graves", number, fault, seed=number):
            work(path)
        with run.RunFolder.resume(path / "a" / "b") as folder:
            assert folder.facts["status"] == "new"
            assert set(tree(folder.path)) == {".lock", "run.json"}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_at_each_call_of_the_metrics_log(fault: str, tmp_path: Path):
    def work(folder: Path) -> None:
        log = run.MetricsLog(folder / "metrics.jsonl", length)
        for update in (3, 4):
            log.append({"update": update, "text": "가" * 10})
            log.sync()
        log.close()

    start = tmp_path / "start"
    start.mkdir()
    log = run.MetricsLog(start / "metrics.jsonl")
    for update in (1, 2, 99):
        length = log.sync()  # a checkpoint was written before update 99
        log.append({"update": update})
    log.close()
    for number in range(count(start, tmp_path, work)):
        folder = tmp_path / f"{number}"
        shutil.copytree(start, folder)
        with faulty(tmp_path / "graves", number, fault, seed=number):
            work(folder)
        assert [line["update"] for line in run.read_metrics(folder / "metrics.jsonl")][:2] == [1, 2]
        work(folder)
        assert [line["update"] for line in run.read_metrics(folder / "metrics.jsonl")] == [1, 2, 3, 4]
