"""Cells of a zarr store, read from it in runs of rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
from numpy.typing import NDArray

from scalex.cells.file_cells import file_store
from scalex.cells.one_source import OneSource
from scalex.formats.zarr_store import check_zarr, open_zarr_group
from scalex.h5ad.open_file import check_state

__all__ = ["ZarrFile", "zarr_store"]

# Folders within each other in which the files of an array lie, as in layers/counts/data/c.
DEPTH = 4


class ZarrFile:
    """An AnnData in a zarr folder or .zip, which has to stay as it is for as long as it is read. See `AnnDataFile` for what it offers.

    Parameters
    ----------
    path
        Where it is.

    Raises
    ------
    ValueError
        If it is no zarr store, or files of it are missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._folders = _find_folders(self.path)
        self._was = self._state(self.path)
        self._group: Any = open_zarr_group(self.path)
        check_zarr(self._group, self.path)
        self.identity = "\n".join(map(str, (self.path, *self._was)))

    def open(self) -> Any:
        """The group at the root.

        Raises
        ------
        OSError
            The store is gone, or is not the one that it was when this object was made.
        """
        check_state(self.path, self._state, self._was)
        return self._group

    def values(self, name: str) -> _ZarrValues:
        """The values of an array."""
        return _ZarrValues(self, name, self.open()[name])

    def read_rows(self, name: str, rows: slice) -> Any:
        """Some rows of an element, as anndata reads them: they are copied to a store in memory, from which it reads."""
        import zarr
        from zarr.storage import MemoryStore

        copy = zarr.create_group(MemoryStore())
        with self.reading(f"{name}, rows {rows.start} to {rows.stop - 1},"):
            _copy_rows(self.open()[name], copy, "rows", rows)
            return ad.io.read_elem(copy["rows"])

    @contextmanager
    def reading(self, what: str) -> Iterator[None]:
        """Name the store and what is read from it where that fails.

        Raises
        ------
        OSError
            zarr cannot read it.
        """
        try:
            yield
        except (OSError, RuntimeError, ValueError) as error:
            check_state(self.path, self._state, self._was)
            raise OSError(
                f"{self.path}: {what} cannot be read ({error}). The store is damaged, or compressed by a method that is not installed "
                "here: copy it again from where it came, or write it again."
            ) from error

    def _state(self, path: Path) -> tuple[int, ...]:
        """When files of the store were last added, removed or replaced: the times of its folders, of a .zip that of the file."""
        first = path.stat()
        return max(folder.stat().st_mtime_ns for folder in self._folders), first.st_size, first.st_ino


def zarr_store(path: Path, layer: str, source: str, cache: Path | None = None) -> OneSource:
    """The cells of a zarr store; see `scalex.cells.file_cells.file_store`."""
    return file_store(lambda: ZarrFile(path), layer, source, cache)


@dataclass(frozen=True)
class _ZarrValues:
    file: ZarrFile
    name: str
    array: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        dtype: np.dtype[Any] = self.array.dtype
        return dtype

    @property
    def shape(self) -> tuple[int, ...]:
        shape: tuple[int, ...] = self.array.shape
        return shape

    @property
    def gap(self) -> int:
        # A chunk is read whole, however little of it is asked for.
        return int(np.prod(self.array.chunks))

    def read_direct(self, values: NDArray[Any], part: slice) -> None:
        self.file.open()
        values[...] = self.array[part]


def _find_folders(path: Path) -> list[Path]:
    """The store and the folders within it in which files of its arrays lie; of a .zip the file."""
    folders = [path]
    for depth in range(DEPTH if path.is_dir() else 0):
        above = [folder for folder in folders if len(folder.parts) == len(path.parts) + depth]
        folders += [Path(entry) for folder in above for entry in os.scandir(folder) if entry.is_dir()]
    return folders


def _copy_rows(stored: Any, parent: Any, name: str, rows: slice) -> None:
    if not hasattr(stored, "keys"):
        copy = parent.create_array(name, data=stored[rows], compressors=None)
    else:
        copy = parent.create_group(name)
        for part in stored:
            all_rows = part == "categories" and stored.attrs["encoding-type"] == "categorical"
            _copy_rows(stored[part], copy, part, slice(None) if all_rows else rows)
    copy.attrs.update(dict(stored.attrs))
