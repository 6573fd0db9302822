"""Cells of a zarr store, read in runs of rows."""

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

from scalex.cells.file_cells import open_anndata_file
from scalex.cells.one_source import OneSource
from scalex.formats.zarr_store import check_zarr, open_zarr_group
from scalex.h5ad.open_file import check_unchanged

__all__ = ["ZarrFile", "open_zarr"]

# Levels of nested folders that hold the files of an array: layers/counts/data/c.
N_LEVELS = 4


class ZarrFile:
    """AnnData in a zarr folder or .zip, which must not change while it is read. See `AnnDataFile` for the attributes and methods.

    Parameters
    ----------
    path
        The folder or .zip.

    Raises
    ------
    ValueError
        If it is not a zarr store, or if files are missing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()
        self._folders = _find_folders(self.path)
        self._expected_state = self._read_state(self.path)
        self._group: Any = open_zarr_group(self.path)
        check_zarr(self._group, self.path, layers=list(self._group["layers"]) if "layers" in self._group else ())
        self.identity = "\n".join(map(str, (self.path, *self._expected_state)))

    def open(self) -> Any:
        """Return the group at the root.

        Raises
        ------
        OSError
            If the store is gone or has changed since this object was created.
        """
        check_unchanged(self.path, self._read_state, self._expected_state)
        return self._group

    def open_values(self, name: str) -> _ZarrValues:
        """Return an array, to read its values."""
        return _ZarrValues(self, name, self.open()[name])

    def read_rows(self, name: str, rows: slice) -> Any:
        """Read some rows of an element. They are copied to a store in memory, which anndata then reads."""
        import zarr
        from zarr.storage import MemoryStore

        copy = zarr.create_group(MemoryStore())
        with self.explain_errors(f"{name}, rows {rows.start} to {rows.stop - 1},"):
            _copy_rows(self.open()[name], copy, "rows", rows)
            return ad.io.read_elem(copy["rows"])

    @contextmanager
    def explain_errors(self, what: str) -> Iterator[None]:
        """Turn errors of reading into one that names the store and what is read.

        Raises
        ------
        OSError
            If the body fails to read the store.
        """
        try:
            yield
        except (MemoryError, ImportError, AssertionError):
            raise
        # anndata raises errors of many kinds.
        except Exception as error:
            check_unchanged(self.path, self._read_state, self._expected_state)
            raise OSError(
                f"{self.path}: {what} cannot be read ({error}). The store is damaged, or compressed by a method that is not "
                "installed: copy it again from its origin, or write it again."
            ) from error

    def _read_state(self, path: Path) -> tuple[int, ...]:
        """Return when files were last added, removed or replaced, by the times of the folders or of the .zip, with its size and inode."""
        status = path.stat()
        return max(folder.stat().st_mtime_ns for folder in self._folders), status.st_size, status.st_ino


def open_zarr(path: Path, layer: str, source: str, cache: Path | None = None, *, follow_links: bool = False) -> OneSource:
    """Open the cells of a zarr store, which has no links. See `scalex.cells.file_cells.open_anndata_file`."""
    return open_anndata_file(lambda: ZarrFile(path), layer, source, cache)


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
    def max_gap(self) -> int:
        # zarr always reads whole chunks.
        return int(np.prod(self.array.chunks))

    def read_direct(self, values: NDArray[Any], part: slice) -> None:
        self.file.open()
        values[...] = self.array[part]


def _find_folders(path: Path) -> list[Path]:
    """Return the store and the folders within it that hold files of arrays; only the file of a .zip."""
    folders = [path]
    for level in range(N_LEVELS if path.is_dir() else 0):
        parents = [folder for folder in folders if len(folder.parts) == len(path.parts) + level]
        folders += [Path(entry) for parent in parents for entry in os.scandir(parent) if entry.is_dir()]
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
