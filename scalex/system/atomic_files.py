"""Atomic writing of files and folders: whole or not at all."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from scalex.system.process_id import ProcessId

__all__ = ["atomic_create", "atomic_folder", "atomic_write", "explain_full_disk", "remove_unfinished"]

# Errors of a full disk, an exhausted quota and a limited file size.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes; with less free space, an error without a number counts as one for lack of space.
LITTLE_SPACE = 1 << 20
# Name of an incomplete file or folder: the process that writes it, and the file. The suffix stays last: some writers choose the format
# by it.
UNFINISHED = re.compile(r"\.unfinished-(\d+)@([^@]+)@")


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` on success and is removed on an error.

    Several processes may write the file at the same time. The last one wins.

    Parameters
    ----------
    path
        The file to write. Its folder is created.

    Raises
    ------
    OSError
        If the disk has no space for the file.
    """
    with _write_beside(path) as unfinished:
        yield unfinished
        unfinished.replace(path)


@contextmanager
def atomic_create(path: Path) -> Iterator[Path]:
    """Create a file as `atomic_write` does, unless another process has created it meanwhile.

    Several processes may create the same content at the same time. The first complete file stays.
    """
    with _write_beside(path) as unfinished:
        yield unfinished
        try:
            # Unlike a rename, a link never replaces a file that another process already reads.
            os.link(unfinished, path)
        except FileExistsError:
            pass
        except OSError:
            # The file system has no links.
            unfinished.replace(path)


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `path`, which becomes `path` on success and is removed on an error.

    Several processes may make the same folder at the same time. The first complete one stays.

    Parameters
    ----------
    path
        The folder to make. The folder that it is in is created.

    Raises
    ------
    OSError
        If the disk has no space for the folder.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent)
    own = ProcessId.own()
    unfinished = Path(tempfile.mkdtemp(prefix=f".unfinished-{own.number}@{own.host}@", dir=path.parent))
    try:
        with explain_full_disk(path):
            yield unfinished
            try:
                unfinished.rename(path)
            except OSError:
                if not path.is_dir():
                    raise
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def remove_unfinished(folder: Path, *, of_other_hosts: bool = False) -> None:
    """Remove the incomplete files and folders that killed processes have left in a folder. Those of running processes stay.

    Parameters
    ----------
    folder
        A folder. If it does not exist, nothing happens.
    of_other_hosts
        Also remove those of other machines, of which it is not known whether they run.
    """
    for path in folder.glob(".unfinished-*"):
        found = UNFINISHED.match(path.name)
        if found:
            writer = ProcessId(int(found[1]), found[2])
            if writer.has_ended() or (of_other_hosts and writer.host != ProcessId.own().host):
                _remove(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def _write_beside(path: Path) -> Iterator[Path]:
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path.parent)
    own = ProcessId.own()
    unfinished = path.with_name(f".unfinished-{own.number}@{own.host}@{path.name}")
    try:
        with explain_full_disk(path):
            yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn errors for lack of disk space into one that names the file.

    Raises
    ------
    OSError
        If the body fails because the disk has no space for the file.
    """
    hooks = sys.excepthook, sys.unraisablehook
    _hide_unwritten_objects()
    is_full = False
    try:
        yield
    except (OSError, RuntimeError) as error:
        is_full = _is_lack_of_space(error, path.parent)
        if not is_full:
            raise
        raise OSError(
            f"The disk has no space left for {path}. The incomplete file was removed. Free some space, or choose another folder."
        ) from error
    finally:
        # Objects of a file that could not be written may be freed later.
        if not is_full:
            sys.excepthook, sys.unraisablehook = hooks


def _hide_unwritten_objects() -> None:
    """Hide the error of a full disk that h5py shows, by both hooks, for each object of the file when the object is freed."""
    show, show_unraisable = sys.excepthook, sys.unraisablehook

    def show_others(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not _names_lack_of_space(error):
            show(kind, error, trace)

    def show_other_unraisable(unraisable: sys.UnraisableHookArgs) -> None:
        if not _names_lack_of_space(unraisable.exc_value):
            show_unraisable(unraisable)

    sys.excepthook, sys.unraisablehook = show_others, show_other_unraisable


def _is_lack_of_space(error: OSError | RuntimeError, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    # HDF5 gives the number in its text, and torch gives no reason at all.
    return _names_lack_of_space(error) or shutil.disk_usage(folder).free < LITTLE_SPACE


def _names_lack_of_space(error: BaseException | None) -> bool:
    return any(f"errno = {number}" in str(error) for number in NO_SPACE)
