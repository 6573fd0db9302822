"""Atomic writing of files: whole or not at all."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["atomic_create", "explain_full_disk", "atomic_write"]

# Errors of a full disk, an exhausted quota and a limited file size.
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes; with less free space, an error without a number counts as one for lack of space.
LITTLE_SPACE = 1 << 20


@contextmanager
def atomic_write(path: Path, *, by_several: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`, which replaces `path` on success and is removed on an error.

    Parameters
    ----------
    path
        The file to write. Its folder is created.
    by_several
        Allow several processes to write the file at the same time. The last one wins.

    Raises
    ------
    OSError
        If the disk has no space for the file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The suffix stays last: some writers choose the format by it.
    with _remove_at_end(_own_path(path) if by_several else path.with_name(f".unfinished-{path.name}"), path) as unfinished:
        yield unfinished
        unfinished.replace(path)


@contextmanager
def atomic_create(path: Path) -> Iterator[Path]:
    """Create a file as `atomic_write` does, unless another process has created it meanwhile.

    Several processes may create the same content at the same time. The first complete file stays.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with _remove_at_end(_own_path(path), path) as unfinished:
        yield unfinished
        try:
            # Unlike a rename, a link never replaces a file that another process already reads.
            os.link(unfinished, path)
        except FileExistsError:
            pass
        except OSError:
            # The file system has no links.
            unfinished.replace(path)


def _own_path(path: Path) -> Path:
    """Return a temporary path that no other process uses. Processes on two machines may have the same number."""
    return path.with_name(f".unfinished-{socket.gethostname()}-{os.getpid()}-{path.name}")


@contextmanager
def _remove_at_end(unfinished: Path, path: Path) -> Iterator[Path]:
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
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not _is_lack_of_space(error, path.parent):
            raise
        raise OSError(
            f"The disk has no space left for {path}. The incomplete file was removed. Free some space, or choose another folder."
        ) from error


def _is_lack_of_space(error: OSError | RuntimeError, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in NO_SPACE
    # HDF5 gives the number in its text, and torch gives no reason at all.
    return any(f"errno = {number}" in str(error) for number in NO_SPACE) or shutil.disk_usage(folder).free < LITTLE_SPACE
