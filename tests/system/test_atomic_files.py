from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from scalex.system.atomic_files import atomic_create, atomic_folder, atomic_write, remove_unfinished
from scalex.system.process_id import ProcessId


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "table.csv"
    with atomic_write(path) as unfinished:
        unfinished.write_text("half")
        assert not path.exists()
        assert unfinished.suffix == ".csv"
    assert path.read_text() == "half"
    assert listed(path.parent) == ["table.csv"]


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    path.write_text("a long old text")
    with atomic_write(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "a long old text"
    assert path.read_text() == "new"
    assert listed(tmp_path) == ["table.csv"]


@pytest.mark.parametrize("error", [RuntimeError("stopped"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
@pytest.mark.parametrize("old", ["an old text", None])
def test_nothing_half_written_is_left(tmp_path: Path, error: BaseException, old: str | None) -> None:
    path = tmp_path / "table.csv"
    if old:
        path.write_text(old)

    def fail() -> None:
        with atomic_write(path) as unfinished:
            unfinished.write_text("half")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert listed(tmp_path) == (["table.csv"] if old else [])
    assert not old or path.read_text() == old


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_full_disk_is_said_with_the_file(tmp_path: Path, number: int) -> None:
    path = tmp_path / "table.csv"
    with (
        pytest.raises(OSError, match=rf"The disk has no space left for {path}. The incomplete file was removed. Free some space"),
        atomic_write(path),
    ):
        raise OSError(number, os.strerror(number))
    with pytest.raises(OSError, match=r"^cells.h5ad is gone$"), atomic_write(path):
        raise OSError("cells.h5ad is gone")


@pytest.mark.parametrize("links", [True, False])
def test_of_two_that_make_a_file_at_once_the_first_stays(tmp_path: Path, links: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(PermissionError(errno.EPERM, "Operation not permitted")))
    path = tmp_path / "cache"
    with atomic_create(path) as mine:
        mine.write_text("mine")
        with monkeypatch.context() as other, other.context() as patch:
            patch.setattr(os, "getpid", lambda: 1)
            with atomic_create(path) as unfinished:
                unfinished.write_text("the other's")
    assert path.read_text() == ("the other's" if links else "mine")
    assert listed(tmp_path) == ["cache"]


def test_a_folder_appears_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder"
    with atomic_folder(path) as unfinished:
        (unfinished / "one.txt").write_text("one")
        assert not path.exists()
    assert listed(path) == ["one.txt"]
    assert listed(path.parent) == ["folder"]


@pytest.mark.parametrize("error", [RuntimeError("stopped"), KeyboardInterrupt(), OSError(errno.ENOSPC, "No space left on device")])
def test_nothing_of_half_a_folder_is_left(tmp_path: Path, error: BaseException) -> None:
    def fail() -> None:
        with atomic_folder(tmp_path / "folder") as unfinished:
            (unfinished / "one.txt").write_text("one")
            raise error

    with pytest.raises(type(error)):
        fail()
    assert listed(tmp_path) == []


def test_of_two_that_make_a_folder_at_once_the_first_stays(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    with atomic_folder(path) as mine:
        (mine / "whose.txt").write_text("mine")
        with atomic_folder(path) as other:
            (other / "whose.txt").write_text("the other's")
    assert (path / "whose.txt").read_text() == "the other's"
    assert listed(tmp_path) == ["folder"]


def test_a_folder_that_cannot_get_its_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "folder").write_text("a file")
    with pytest.raises(NotADirectoryError), atomic_folder(tmp_path / "folder") as unfinished:
        (unfinished / "one.txt").write_text("one")
    assert listed(tmp_path) == ["folder"]


def test_an_error_before_the_first_byte_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="early"), atomic_write(tmp_path / "table.csv"):
        raise RuntimeError("early")
    assert listed(tmp_path) == []


@pytest.fixture
def ended() -> ProcessId:
    """Return a process of this machine that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return ProcessId(process.pid, ProcessId.own().host)


def test_only_files_of_ended_processes_are_removed(tmp_path: Path, ended: ProcessId) -> None:
    own = ProcessId.own()
    names = {
        writer: f".unfinished-{writer.number}@{writer.host}@table.csv"
        for writer in (ended, own, ProcessId(1, own.host), ProcessId(ended.number, "other-host"))
    }
    for name in (*names.values(), ".unfinished-notes", "table.csv"):
        (tmp_path / name).write_text("half")
    remove_unfinished(tmp_path)
    assert set(listed(tmp_path)) == {*names.values(), ".unfinished-notes", "table.csv"} - {names[ended]}
    remove_unfinished(tmp_path, of_other_hosts=True)
    assert set(listed(tmp_path)) == {names[own], names[ProcessId(1, own.host)], ".unfinished-notes", "table.csv"}
    remove_unfinished(tmp_path / "absent")


def test_folders_of_ended_processes_are_removed(tmp_path: Path, ended: ProcessId) -> None:
    for writer in (ended, ProcessId.own()):
        folder = tmp_path / f".unfinished-{writer.number}@{writer.host}@x"
        folder.mkdir()
        (folder / "one.txt").write_text("one")
    remove_unfinished(tmp_path)
    assert listed(tmp_path) == [f".unfinished-{os.getpid()}@{ended.host}@x"]


@pytest.mark.parametrize("write", [atomic_write, atomic_create])
def test_writing_removes_the_files_of_ended_processes(tmp_path: Path, ended: ProcessId, write: Callable[[Path], Any]) -> None:
    (tmp_path / f".unfinished-{ended.number}@{ended.host}@other.csv").write_text("half")
    with write(tmp_path / "table.csv") as path:
        path.write_text("whole")
    assert listed(tmp_path) == ["table.csv"]
