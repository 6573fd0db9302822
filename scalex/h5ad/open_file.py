"""A file that is read for a long time, by several threads and processes."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anndata as ad
import h5py

from scalex.h5ad.values import StoredValues

__all__ = ["StoredFile", "check_state"]

T = TypeVar("T")


class StoredFile:
    """An HDF5 file that has to stay as it is for as long as it is read.

    Each process opens it for itself at its first use: neither a copy of this object by pickle nor a fork shares an open file.

    Parameters
    ----------
    path
        Where it is.

    Attributes
    ----------
    identity : str
        Path, size in bytes and time of the file, a line each.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path).absolute()
        self._was = _state(self.path)
        self._opened: tuple[int, h5py.File] | None = None
        modified, size, _ = self._was
        self.identity = f"{self.path}\n{size}\n{modified}"

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

    def values(self, name: str) -> StoredValues:
        """The values of a dataset."""
        return StoredValues(self, name)

    def read_rows(self, name: str, rows: slice) -> Any:
        """Some rows of an element, as anndata reads them.

        The rows of each of its datasets are copied to a file in memory with the same layout, so that each kind of element is read by
        anndata itself.
        """
        stored = self.open()[name]
        with (
            self.reading(f"{name}, rows {rows.start} to {rows.stop - 1},"),
            h5py.File("r", "w", driver="core", backing_store=False) as file,
        ):
            _copy_rows(stored, file, "rows", rows)
            return ad.io.read_elem(file["rows"])

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
        check_state(self.path, _state, self._was)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def _state(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_size, found.st_ino


def check_state(path: Path, state: Callable[[Path], T], was: T) -> None:
    """See that a file is the one that it was.

    Raises
    ------
    OSError
        If it is gone, or was changed.
    """
    try:
        now = state(path)
    except OSError as error:
        raise OSError(
            f"{path} is gone ({error.strerror}), but cells are still to be read from it. Put it back, and begin the run again."
        ) from error
    if now != was:
        raise OSError(
            f"{path} changed while it was being read. Leave it as it is until the run is over, and begin the run again, since its cells "
            "may be others now."
        )


def _copy_rows(stored: h5py.Group | h5py.Dataset, parent: h5py.Group, name: str, rows: slice) -> None:
    copy: Any
    if isinstance(stored, h5py.Dataset):
        copy = parent.create_dataset(name, data=stored[rows], dtype=stored.dtype)
        copy.attrs.update(stored.attrs)
        return
    copy = parent.create_group(name)
    copy.attrs.update(stored.attrs)
    for part, element in stored.items():
        if part == "categories" and stored.attrs["encoding-type"] == "categorical":
            stored.copy(element, copy, part)
        else:
            _copy_rows(element, copy, part, rows)
