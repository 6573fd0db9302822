"""An HDF5 file that several threads and processes read over a long time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import anndata as ad
import h5py

from scalex.formats.hdf5 import check_links, find_missing_filter, load_filters
from scalex.h5ad.values import StoredValues

__all__ = ["StoredFile", "check_unchanged"]

T = TypeVar("T")


class StoredFile:
    """HDF5 file that must not change while it is read.

    Each process opens the file at its first use. Neither a pickled copy of this object nor a fork shares an open file.

    Parameters
    ----------
    path
        Path of the file.
    follow_links
        Read data that it takes from other files.

    Attributes
    ----------
    identity : str
        Path, size in bytes and modification time in ns of the file, one per line.
    """

    def __init__(self, path: str | Path, *, follow_links: bool = False) -> None:
        self.path = Path(path).absolute()
        self._follow_links = follow_links
        self._expected_state = _read_state(self.path)
        self._opened: tuple[int, h5py.File] | None = None
        modified, size, _ = self._expected_state
        self.identity = f"{self.path}\n{size}\n{modified}"

    def open(self) -> h5py.File:
        """Return the open file. Call this before each read.

        Raises
        ------
        OSError
            If the file is gone or has changed since this object was created.
        ForeignDataError
            If it takes data from other files.
        """
        self._check()
        opened, process = self._opened, os.getpid()
        if opened is None or opened[0] != process:
            if opened is not None:
                # Otherwise HDF5 would use the file that was open before the fork.
                opened[1].close()
            load_filters()
            opened = (process, h5py.File(self.path))
            if not self._follow_links:
                check_links(opened[1])
            self._opened = opened
        return opened[1]

    def get_descriptor(self) -> int:
        """Return the descriptor of the open file. Raises the errors of `open`."""
        return int(self.open().id.get_vfd_handle())

    def open_values(self, name: str) -> StoredValues:
        """Return a dataset, to read its values."""
        return StoredValues(self, name)

    def read_rows(self, name: str, rows: slice) -> Any:
        """Read some rows of an element. They are copied to a file in memory, which anndata then reads."""
        stored = self.open()[name]
        with (
            self.explain_errors(f"{name}, rows {rows.start} to {rows.stop - 1},"),
            h5py.File("r", "w", driver="core", backing_store=False) as file,
        ):
            _copy_rows(stored, file, "rows", rows)
            return ad.io.read_elem(file["rows"])

    @contextmanager
    def explain_errors(self, what: str) -> Iterator[None]:
        """Turn errors of reading into one that names the file and what is read.

        Raises
        ------
        OSError
            If the body fails to read the file.
        """
        try:
            yield
        except (MemoryError, ImportError, AssertionError):
            raise
        # anndata raises errors of many kinds.
        except Exception as error:
            self._check()
            problem = find_missing_filter(self.open())
            advice = f"{problem}." if problem else "The file is damaged: copy it again from its origin, or write it again."
            raise OSError(f"{self.path}: {what} cannot be read ({error}). {advice}") from error

    def _check(self) -> None:
        check_unchanged(self.path, _read_state, self._expected_state)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_opened": None}


def _read_state(path: Path) -> tuple[int, int, int]:
    status = path.stat()
    return status.st_mtime_ns, status.st_size, status.st_ino


def check_unchanged(path: Path, read_state: Callable[[Path], T], expected: T) -> None:
    """Check that a file is in the expected state.

    Raises
    ------
    OSError
        If the file is gone or has changed.
    """
    try:
        state = read_state(path)
    except OSError as error:
        raise OSError(
            f"{path} is gone ({error.strerror}), but cells still have to be read from it. Put it back, and start the run again."
        ) from error
    if state != expected:
        raise OSError(
            f"{path} changed while it was being read, and its cells may differ now. Start the run again, and do not change the file until "
            "the run ends."
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
