"""The owner of a run folder, the process that alone may write to it, and of a trial of a study."""

from __future__ import annotations

import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scalex.system.process_id import ProcessId

__all__ = ["OWNER", "own_file", "own_folder"]

OWNER = ".owner"
TEXT = re.compile(r"process (\d+) on (\S+) has used it since .+")


@contextmanager
def own_folder(folder: Path) -> Iterator[None]:
    """Create a folder if there is none, and own it for the duration of the context.

    The file ``.owner`` names the process. Its lock decides, because it ends with its process, even if the process is killed. On a disk
    without locks, the file itself decides, unless its process is known to have ended.

    Raises
    ------
    FileExistsError
        If another process owns the folder. The message names it.
    OSError
        If the folder cannot be written to.
    """
    path = folder / OWNER
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = _take(path)
    except OSError as error:
        raise OSError(f"Cannot write to the output folder {folder} ({error.strerror}). Choose another with output=.") from error
    if descriptor is None:
        owner = path.read_text().strip() if path.exists() else ""
        raise FileExistsError(
            f"Another run is using the folder {folder}: {owner or 'a process that has not given its name yet'}. Give each run its own "
            f"folder with output=. To train with several processes, use trainer=ddp. If no such process runs, remove {path}."
        )
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


@contextmanager
def own_file(path: Path) -> Iterator[bool]:
    """Own for the duration of the context what a file stands for, and yield True; yield False if another process owns it.

    The file is created, names the process as ``.owner`` does, and is removed. What a killed process has owned is free.
    """
    descriptor = _take(path)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _take(path: Path) -> int | None:
    """Create or take over the file and return its descriptor, which holds the lock. None: another process has it."""
    while True:
        is_new = True
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        except FileExistsError:
            is_new = False
            try:
                descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW)
            except FileNotFoundError:
                continue
        try:
            if _lock_or_read(path, descriptor, is_new):
                # The owner before may have removed the file that is now locked.
                if path.exists() and os.path.samestat(os.fstat(descriptor), path.stat()):
                    _sign(path, descriptor)
                    taken, descriptor = descriptor, -1
                    return taken
            elif path.exists():
                return None
        finally:
            if descriptor >= 0:
                os.close(descriptor)


def _lock_or_read(path: Path, descriptor: int, is_new: bool) -> bool:
    """Return whether the file may be taken: it could be locked or, on a disk without locks, is new.

    On a disk without locks, the file of a process that has ended is removed.
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        found = TEXT.match(os.pread(descriptor, 1000, 0).decode())
        if not is_new and found and ProcessId(int(found[1]), found[2]).has_ended():
            path.unlink(missing_ok=True)
        return is_new
    return True


def _sign(path: Path, descriptor: int) -> None:
    own = ProcessId.own()
    text = f"process {own.number} on {own.host} has used it since {time.strftime('%Y-%m-%d %H:%M:%S')}\n"
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, text.encode(), 0)
    except OSError:
        path.unlink(missing_ok=True)
        raise
