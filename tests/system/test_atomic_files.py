from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path

import pytest

from scalex.runs.folder import COMPOSED, RESULTS, claim_folder, new_folder
from scalex.system.atomic_files import atomic_create, atomic_write


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


def test_an_error_before_the_first_byte_is_passed_on(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="early"), atomic_write(tmp_path / "table.csv"):
        raise RuntimeError("early")
    assert listed(tmp_path) == []


def test_a_new_folder_is_made_and_empty(tmp_path: Path) -> None:
    folder = new_folder(str(tmp_path / "a" / "b"))
    assert folder == tmp_path / "a" / "b"
    assert listed(folder) == []


def test_a_folder_with_other_files_is_used(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert new_folder(tmp_path) == tmp_path
    assert (tmp_path / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize("name", RESULTS)
def test_another_runs_results_are_never_overwritten(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("precious")
    message = (
        rf"The output folder {tmp_path} holds another run's results \({name}\)\. Choose another folder with output=.*resume={tmp_path}"
    )
    with pytest.raises(FileExistsError, match=message):
        new_folder(tmp_path)
    assert (tmp_path / name).read_text() == "precious"


def test_a_run_that_failed_at_once_does_not_take_the_folder(tmp_path: Path) -> None:
    for name in ("config.yaml", COMPOSED, "log.txt"):
        (tmp_path / name).touch()
    assert new_folder(tmp_path) == tmp_path


@pytest.mark.parametrize("exists", [True, False])
def test_there_must_be_something_to_resume(tmp_path: Path, exists: bool) -> None:
    folder = tmp_path if exists else tmp_path / "absent"
    with pytest.raises(FileNotFoundError, match=f"Nothing to resume in {folder}: it holds no run"):
        new_folder(folder, resume=True)
    assert listed(tmp_path) == []


def test_a_stopped_run_can_be_resumed(tmp_path: Path) -> None:
    (tmp_path / COMPOSED).touch()
    (tmp_path / "checkpoint").mkdir()
    assert new_folder(tmp_path, resume=True) == tmp_path
    assert listed(tmp_path) == sorted(["checkpoint", COMPOSED])


def test_a_finished_run_is_not_resumed(tmp_path: Path) -> None:
    (tmp_path / COMPOSED).touch()
    (tmp_path / "adata.h5ad").touch()
    with pytest.raises(FileExistsError, match=rf"The run in {tmp_path} is finished \(adata\.h5ad exists\): there is nothing to resume"):
        new_folder(tmp_path, resume=True)


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "run"):
        with pytest.raises(OSError, match=rf"Cannot write to the output folder {folder} \(.*\)\. Choose another with output="):
            new_folder(folder)
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written_to_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(Path, "touch", refuse)
    with pytest.raises(
        OSError, match=rf"Cannot write to the output folder {tmp_path} \({os.strerror(code)}\)\. Choose another with output="
    ):
        new_folder(tmp_path)
    assert listed(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="Cannot write to the output folder"):
            new_folder(tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_the_folder_of_a_continued_training_that_failed_is_not_used_for_another_run(tmp_path: Path) -> None:
    """Its growth.json would say of the other run that it is no reference."""
    (tmp_path / "growth.json").write_text('{"accepted": false}')
    with pytest.raises(FileExistsError, match=r"holds another run's results \(growth\.json\)"):
        new_folder(tmp_path)


def test_a_folder_is_that_of_one_run_at_a_time(tmp_path: Path) -> None:
    for _ in range(2):
        with (
            claim_folder(tmp_path),
            pytest.raises(FileExistsError, match=rf"Another run is using the folder {tmp_path}\."),
            claim_folder(tmp_path),
        ):
            pass
    assert listed(tmp_path) == []


def test_a_disk_without_locks_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with claim_folder(tmp_path), claim_folder(tmp_path):
        assert listed(tmp_path) == []
