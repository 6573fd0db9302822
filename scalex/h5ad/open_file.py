"""A file that is read for a long time, by several threads and processes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

__all__ = ["StoredFile"]


class StoredFile:
    """An HDF5 file that has to stay as it is for as long as it is read.

    Each process opens it for itself at its first use: neither a copy of this object by pickle nor a fork shares an open file.

    Parameters
    ----------
    path
        Where it is.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._was = _state(self.path)
        self._opened: tuple[int, h5py.File] | None = None

    def open(self) -> h5py.File:
        """The open file; to be asked for before each read.

        Raises
        ------
        OSError
            The file is gone, or is not the one that it was when this object was made.
        """
        self._check()
        opened, process = self._opened, os.getpid()
        if opened is None or opened[0] != process:
            if opened is not None:
                # Else HDF5 would go on with what was open before the fork.
                opened[1].close()
            self._opened = opened = (process, h5py.File(self.path))
        return opened[1]

    def descriptor(self) -> int:
        """The open file's descriptor, to read bytes at a place of it; raises as `open` does."""
        return int(self.open().id.get_vfd_handle())

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Name the file and what is read from it where that fails.

        Raises
        ------
        OSError
            HDF5 cannot read it.
        """
        try:
            yield
        except (OSError, RuntimeError) as error:
            self._check()
            raise OSError(
                f"{self.path}: {what} cannot be read ({error}). The file is damaged, or compressed by a method that is not installed "
                "here: copy it again from where it came, or write it again."
            ) from error

    def _check(self) -> None:
        try:
            now = _state(self.path)
        except OSError as error:
            raise OSError(
                f"{self.path} is gone ({error.strerror}), but cells are still to be read from it. Put it back, and begin the run again."
            ) from error
        if now != self._was:
            raise OSError(
                f"{self.path} changed while it was being read. Leave it as it is until the run is over, and begin the run again, since its "
                "cells may be others now."
            )

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino
