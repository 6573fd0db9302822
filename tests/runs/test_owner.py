from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from scalex.runs.owner import OWNER, own_file, own_folder
from scalex.system.process_id import ProcessId

# Owns a folder until it is killed.
HOLD = "import sys, time; from pathlib import Path; from scalex.runs.owner import own_folder\n"
HOLD += "with own_folder(Path(sys.argv[1])):\n    print('owned', flush=True)\n    time.sleep(600)"
CODE_ROOT = Path(__file__).parents[2]


def listed(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start_owner(folder: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], cwd=CODE_ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "owned\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    process.stdout.close()
    process.send_signal(signal.SIGKILL)
    process.wait()


@pytest.fixture(params=[True, False], ids=["locks", "no locks"])
def has_locks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    if not request.param:
        monkeypatch.setattr(fcntl, "flock", refuse)
    return bool(request.param)


def test_a_new_folder_is_made_and_left_empty(tmp_path: Path, has_locks: bool) -> None:
    folder = tmp_path / "a" / "b"
    with own_folder(folder):
        assert listed(folder) == [OWNER]
        assert (folder / OWNER).read_text().startswith(f"process {os.getpid()} on {ProcessId.own().host} has used it since 2")
    assert listed(folder) == []


def test_a_folder_has_one_owner_at_a_time(tmp_path: Path, has_locks: bool) -> None:
    message = rf"Another run is using the folder {tmp_path}: process {os.getpid()} on .* has used it since .*\. Give each run"
    for _ in range(2):
        with own_folder(tmp_path), pytest.raises(FileExistsError, match=message), own_folder(tmp_path):
            pass
        assert listed(tmp_path) == []


def test_the_folder_of_a_killed_process_is_free(tmp_path: Path, has_locks: bool) -> None:
    other = start_owner(tmp_path)
    try:
        with pytest.raises(FileExistsError, match=f"process {other.pid} on"), own_folder(tmp_path):
            pass
    finally:
        kill(other)
    assert listed(tmp_path) == [OWNER]
    with own_folder(tmp_path):
        assert (tmp_path / OWNER).read_text().startswith(f"process {os.getpid()} on")
    assert listed(tmp_path) == []


def test_the_lock_decides_and_without_locks_the_file(tmp_path: Path, has_locks: bool) -> None:
    """It is not known whether a process of another machine runs, unless it would hold the lock."""
    (tmp_path / OWNER).write_text("process 1 on another-host has used it since 2026-01-31 12:00:00\n")
    if has_locks:
        with own_folder(tmp_path):
            assert "another-host" not in (tmp_path / OWNER).read_text()
        return
    with pytest.raises(FileExistsError, match=r"process 1 on another-host has used .* If no such process runs, remove .*\.owner"):
        own_folder(tmp_path).__enter__()
    assert listed(tmp_path) == [OWNER]


def test_of_many_processes_that_start_together_one_owns_the_folder(tmp_path: Path) -> None:
    code = "import sys, time; from pathlib import Path; from scalex.runs.owner import own_folder\n"
    code += "sys.stdin.readline()\nwith own_folder(Path('run')):\n    print('owned', flush=True)\n    sys.stdin.readline()"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code], cwd=tmp_path, env=os.environ | {"PYTHONPATH": str(CODE_ROOT)}, stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for _ in range(6)
    ]  # fmt: skip
    for process in started:
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
    # The owner ends after all others have been refused.
    owners = [process for process in started if process.stdout is not None and process.stdout.readline() == "owned\n"]
    assert len(owners) == 1
    for process in started:
        _, error = process.communicate("\n")
        # The owner may not have given its name yet when another one is refused.
        assert (process.returncode, "Another run is using the folder run: " in error) == ((0, False) if process in owners else (1, True)), (
            error
        )


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "run" / OWNER).symlink_to(tmp_path / "precious")
    with pytest.raises(OSError, match="Cannot write to the output folder"), own_folder(tmp_path / "run"):
        pass
    assert (tmp_path / "precious").read_text() == "mine"


def test_a_file_in_place_of_the_folder_is_said(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    for folder in (tmp_path / "taken", tmp_path / "taken" / "run"):
        with pytest.raises(OSError, match=rf"Cannot write to the output folder {folder} \(.*\)\. Choose another with output="):
            own_folder(folder).__enter__()
    assert (tmp_path / "taken").read_text() == "a file"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["open", "pwrite"])
def test_a_disk_that_cannot_be_written_to_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, call: str) -> None:
    def refuse(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, call, refuse)
    message = rf"Cannot write to the output folder {tmp_path} \({os.strerror(code)}\)\. Choose another with output="
    with pytest.raises(OSError, match=message), own_folder(tmp_path):
        pass
    assert listed(tmp_path) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_read_only_folder_is_said(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    try:
        with pytest.raises(OSError, match="Cannot write to the output folder"), own_folder(tmp_path):
            pass
    finally:
        tmp_path.chmod(0o700)


def test_a_file_has_one_owner_and_is_removed(tmp_path: Path, has_locks: bool) -> None:
    path = tmp_path / ".trial-3"
    with own_file(path) as is_own:
        assert is_own
        assert path.read_text().startswith(f"process {os.getpid()} on ")
        with own_file(path) as is_other:
            assert not is_other
        assert path.exists()
    assert listed(tmp_path) == []


def test_the_file_of_a_killed_process_is_free(tmp_path: Path) -> None:
    process = start_owner(tmp_path / "run")
    kill(process)
    with own_file(tmp_path / "run" / OWNER) as is_own:
        assert is_own
