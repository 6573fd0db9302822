"""Files that are written whole or not at all."""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from scalex.overrides import as_typed

__all__ = ["COMPOSED", "RESULTS", "claim_folder", "made_by_the_first", "new_folder", "not_given", "written_whole"]

logger = logging.getLogger(__name__)

# The configuration of a run with its references between settings, from which it is resumed; config.yaml has them resolved.
COMPOSED = ".composed.yaml"
# What a run leaves in its folder. Its settings and its log are not among them: a run that failed at once does not take the folder.
RESULTS = ("adata.h5ad", "checkpoint", "growth.json", "lineage.json", "metrics.csv", "metrics.json", "report.json", "umap.pdf", "umap.png")
# What the system says of a full disk, a spent quota and a limited size of files.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Bytes.
LITTLE_ROOM = 1 << 20


@contextmanager
def written_whole(path: Path, *, by_several: bool = False) -> Iterator[Path]:
    """A temporary path beside `path` to write to; it takes the place of `path` if nothing goes wrong, else it is removed.

    Parameters
    ----------
    path
        The file.
    by_several
        Several processes may write it at once; the last one stays.

    Raises
    ------
    OSError
        If there is no room for it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    # The ending stays last: some writers choose the format by it.
    with _written(_own(path) if by_several else path.with_name(f".unfinished-{path.name}"), path) as unfinished:
        yield unfinished
        unfinished.replace(path)


@contextmanager
def made_by_the_first(path: Path) -> Iterator[Path]:
    """As `written_whole`, for a file that several processes may make at once, each alike: the first that is whole stays."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with _written(_own(path), path) as unfinished:
        yield unfinished
        try:
            # Unlike a change of name, this never replaces a file that another process reads already.
            os.link(unfinished, path)
        except FileExistsError:
            pass
        except OSError:
            # A disk without links.
            unfinished.replace(path)


def _own(path: Path) -> Path:
    """A temporary path of this process alone: two machines may give one number to two processes."""
    return path.with_name(f".unfinished-{socket.gethostname()}-{os.getpid()}-{path.name}")


@contextmanager
def _written(unfinished: Path, path: Path) -> Iterator[Path]:
    try:
        with told_of_a_full_disk(path):
            yield unfinished
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def told_of_a_full_disk(path: Path) -> Iterator[None]:
    """Name the file for which there is no room.

    Raises
    ------
    OSError
        If writing to it while this lasts fails for want of room.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        if not _is_for_want_of_room(error, path.parent):
            raise
        raise OSError(f"There is no room for {path}, of which nothing is left. Make room on its disk, or choose another folder.") from error


def _is_for_want_of_room(error: OSError | RuntimeError, folder: Path) -> bool:
    if isinstance(error, OSError):
        return error.errno in FULL
    # HDF5 says it in words, and torch does not say what failed.
    return any(f"errno = {number}" in str(error) for number in FULL) or shutil.disk_usage(folder).free < LITTLE_ROOM


def new_folder(folder: str | Path, *, resume: bool = False) -> Path:
    """Make the folder of a run, and see that it can be written to.

    Parameters
    ----------
    folder
        Where the results of the run go.
    resume
        The folder holds a run that was stopped and goes on.

    Raises
    ------
    FileExistsError
        If it holds results and `resume` is false.
    FileNotFoundError
        If there is nothing to resume.
    OSError
        If it cannot be written to.
    """
    folder = Path(folder)
    found = [name for name in RESULTS if (folder / name).exists()]
    if resume and not (folder / COMPOSED).exists():
        raise FileNotFoundError(f"Nothing to resume in {folder}: it holds no run.")
    if resume and "adata.h5ad" in found:
        raise FileExistsError(f"The run in {folder} is finished (adata.h5ad is there): there is nothing to resume.")
    if found and not resume:
        raise FileExistsError(
            f"The output folder {folder} holds another run's results ({', '.join(found)}). Choose another folder with output=, or go "
            f"on with a run that was stopped with {as_typed('resume', folder)}"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".writable"
        probe.touch()
        # Another process of this launch may look at once.
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise OSError(f"Cannot write to the output folder {folder} ({error.strerror}). Choose another with output=.") from error
    return folder


@contextmanager
def claim_folder(folder: Path) -> Iterator[None]:
    """While this lasts, no other run can begin in a folder, as far as its disk knows locks.

    Raises
    ------
    FileExistsError
        If a run is at work there.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            # Of a process that is killed nothing stays, unlike of a file.
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise FileExistsError(
                f"A run is at work in the folder {folder}. Give each run its own with output=; processes that train together are asked "
                "for with trainer=ddp."
            ) from None
        except OSError:
            logger.debug("The disk of %s has no locks.", folder)
        yield
    finally:
        os.close(descriptor)


def not_given(missing: Iterable[str]) -> None:
    """Complain of settings that have no default and were not given.

    Raises
    ------
    ValueError
        If there are any.
    """
    names = sorted(missing)
    if names:
        raise ValueError(f"Not given: {', '.join(names)}. Say it on the command line: {names[0]}=...")
