"""Files are whole or not there; locks end with their process; errors of the machine are one clear line."""

import contextlib
import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itda import durable
from itda.errors import DamagedFileError, MachineError, UserError
from itda.lock import Lock


def refuse(monkeypatch: pytest.MonkeyPatch, call: str, number: int) -> None:
    """Let one kind of call fail with an error number."""

    class Refusing(durable.Disk):
        pass

    def fail(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Refusing, call, fail, raising=False)
    monkeypatch.setattr(durable, "disk", Refusing())


def test_a_file_is_replaced_whole(tmp_path: Path):
    for content in (b"old", b"new and longer", b""):
        durable.write_whole(tmp_path / "file", content)
        assert durable.read(tmp_path / "file") == content
    assert os.listdir(tmp_path) == ["file"]


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Slow(durable.Disk):
        def write(self, handle: int, data: memoryview) -> int:
            return super().write(handle, data[:3])

    monkeypatch.setattr(durable, "disk", Slow())
    durable.write_whole(tmp_path / "file", b"0123456789")
    assert durable.read(tmp_path / "file") == b"0123456789"


@pytest.mark.parametrize(
    ("number", "remedy"),
    [(errno.ENOSPC, "free some space"), (errno.EACCES, "make the folder writable"), (errno.EIO, "look after the disk")],
)
def test_a_refusing_disk_is_a_machine_error_of_one_line(
    number: int, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    durable.write_whole(tmp_path / "file", b"old")
    refuse(monkeypatch, "write", number)
    with pytest.raises(MachineError, match=remedy) as caught:
        durable.write_whole(tmp_path / "file", b"new")
    assert str(tmp_path / "file") in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "--resume" not in str(caught.value), "explain and generate write files too, and have no such option"
    assert caught.value.exit_code == 1
    assert os.listdir(tmp_path) == ["file"], "the half that was written gives its space back"
    assert durable.read(tmp_path / "file") == b"old"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder_is_a_machine_error(tmp_path: Path):
    tmp_path.chmod(0o500)
    with pytest.raises(MachineError, match="make the folder writable"):
        durable.write_whole(tmp_path / "file", b"new")


def test_a_folder_that_cannot_be_fsynced_does_not_stop_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class NetworkDisk(durable.Disk):
        folders: set[int] = set()

        def open(self, path: Path, flags: int) -> int:
            handle = super().open(path, flags)
            (self.folders.add if path.is_dir() else self.folders.discard)(handle)
            return handle

        def fsync(self, handle: int) -> None:
            if handle in self.folders:
                raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(durable, "disk", NetworkDisk())
    durable.write_whole(tmp_path / "file", b"content")
    assert durable.read(tmp_path / "file") == b"content"


def test_equal_values_give_equal_json():
    assert durable.json_bytes({"b": 1, "a": "가"}) == durable.json_bytes({"a": "가", "b": 1})
    assert "가".encode() in durable.json_bytes({"a": "가"})


def test_recover_sweeps_and_puts_back(tmp_path: Path):
    for name in (".tmp-a", ".old-b", ".old-c", "c", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    (tmp_path / ".tmp-file").write_text("half")
    durable.recover(tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["b", "c", "other"]
    assert (tmp_path / "b" / "file").read_text() == ".old-b"
    assert (tmp_path / "c" / "file").read_text() == "c"


@pytest.mark.skipif(os.name == "nt", reason="links need rights there")
def test_removing_a_link_spares_what_it_points_to(tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "file").write_text("kept")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "link").symlink_to(tmp_path / "mine")
    durable.remove(tmp_path / "folder")
    assert (tmp_path / "mine" / "file").read_text() == "kept"


def test_an_appender_cuts_what_came_after_the_known_length(tmp_path: Path):
    log = durable.Appender(tmp_path / "log", 0)
    log.append(b"one\n")
    known = log.sync()
    log.append(b"two\nhal")
    log.close()
    log = durable.Appender(tmp_path / "log", known)
    log.append(b"2\n")
    log.close()
    assert durable.read(tmp_path / "log") == b"one\n2\n"


def test_an_appender_refuses_a_file_that_lost_bytes(tmp_path: Path):
    (tmp_path / "log").write_bytes(b"one\n")
    with pytest.raises(DamagedFileError, match=r"log has 4 bytes, but 9 were on record"):
        durable.Appender(tmp_path / "log", 9)
    assert (tmp_path / "log").read_bytes() == b"one\n"


def test_a_missing_file_is_the_users_business(tmp_path: Path):
    with pytest.raises(UserError, match="file is missing"):
        durable.read(tmp_path / "file")


def test_a_newer_format_asks_for_a_newer_itda_and_an_older_one_is_migrated():
    older = {1: lambda body: {"name": body["title"]}, 2: lambda body: body | {"seen": True}}
    moved = durable.migrate({"format": 1, "title": "a"}, Path("f"), 3, older)
    assert moved == {"format": 3, "name": "a", "seen": True}
    for number in (0, 4):
        with pytest.raises(UserError, match=f"f has format {number}; this itda reads 1 to 3"):
            durable.migrate({"format": number}, Path("f"), 3, older)


def test_two_locks_exclude_each_other(tmp_path: Path):
    first = Lock(tmp_path)
    with pytest.raises(UserError, match="another process is training in"):
        Lock(tmp_path)
    first.release()
    first.release()
    Lock(tmp_path).release()


def test_a_lock_goes_with_its_last_reference(tmp_path: Path):
    Lock(tmp_path)
    Lock(tmp_path).release()


def take_soon(folder: Path) -> None:
    """Take and release a lock; on a busy machine a fresh child needs a moment before it lets go."""
    for _ in range(100):
        with contextlib.suppress(UserError):
            return Lock(folder).release()
        time.sleep(0.1)
    raise AssertionError("the lock outlived the process that held it")


HOLD = (
    "import pathlib, sys, time; from itda.lock import Lock; "
    "lock = Lock(pathlib.Path(sys.argv[1])); print('held', flush=True); "
)


@pytest.mark.parametrize("child", ["", "import os; pid = os.fork(); print(pid, flush=True) if pid else None; "])
def test_a_killed_process_leaves_no_lock(child: str, tmp_path: Path):
    if child and not hasattr(os, "fork"):
        pytest.skip("no fork here")
    command = [sys.executable, "-W", "error", "-c", HOLD + child + "time.sleep(60)", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        orphan = int(process.stdout.readline()) if child else None
        with pytest.raises(UserError, match="another process is training in"):
            Lock(tmp_path)
        process.kill()
        process.wait()
        try:
            take_soon(tmp_path)  # an orphaned worker does not hold it either
        finally:
            if orphan:
                os.kill(orphan, signal.SIGKILL)
