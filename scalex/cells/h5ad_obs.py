"""The annotation of the cells of an .h5ad file, read from it in runs of rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.names import make_unique
from scalex.h5ad.open_file import StoredFile
from scalex.system.chunks import chunks

__all__ = ["StoredTable", "table_rows"]

# Rows that are in memory at a time, where all are gone through.
PIECE_ROWS = 100_000


class StoredTable:
    """The table "obs" of a file. Its names are made unique; of them no more is kept than which were changed.

    Parameters
    ----------
    file
        The file.
    source
        Whose cells they are, for messages.

    Attributes
    ----------
    columns : list of str
        Names of the columns.
    n_rows : int
        Number of cells.
    """

    def __init__(self, file: StoredFile, source: str) -> None:
        self._file = file
        table = file.open()["obs"]
        self.columns = [str(column) for column in table.attrs["column-order"]]
        self._index = str(table.attrs["_index"])
        self.n_rows = len(table[self._index])
        self._renamed: NDArray[np.int64] = np.empty(0, np.int64)
        self._number: NDArray[np.int64] = np.empty(0, np.int64)
        hashes = self.name_hashes()
        if len(np.unique(hashes)) < self.n_rows:
            given = self.names(slice(0, self.n_rows))
            made = make_unique(pd.DataFrame(index=given), "cell", source).index
            self._renamed = np.flatnonzero(made != given)
            self._number = np.array([int(made[row][len(given[row]) + 1 :]) for row in self._renamed], np.int64)

    def rows(self, rows: slice) -> pd.DataFrame:
        """A run of rows, with all columns."""
        first, stop, _ = rows.indices(self.n_rows)
        rows = slice(first, max(first, stop))
        table = self._file.open()["obs"]
        with self._reading("obs", rows):
            found = ad.io.read_elem(table) if rows == slice(0, self.n_rows) else table_rows(table, rows)
        found.index = self._unique(found.index, rows)
        return found

    def names(self, rows: slice) -> pd.Index:
        """Names of a run of cells."""
        names = self._file.open()["obs"][self._index].asstr()
        with self._reading(f"obs/{self._index}", rows):
            found = pd.Index(names[rows])
        return self._unique(found, rows)

    def name_hashes(self) -> NDArray[np.uint64]:
        """(n_rows,) a number for each name, which no other name has, as good as certainly."""
        hashes = np.empty(self.n_rows, np.uint64)
        for rows in chunks(self.n_rows, PIECE_ROWS):
            hashes[rows] = pd.util.hash_array(self.names(rows).to_numpy(object), categorize=False)
        return hashes

    def column(self, name: str) -> Iterator[pd.Series]:
        """A column piece by piece, without names; there is at least one piece."""
        for rows in list(chunks(self.n_rows, PIECE_ROWS)) or [slice(0, 0)]:
            stored = self._file.open()[f"obs/{name}"]
            with self._reading(f"obs/{name}", rows):
                piece = pd.Series(_element_rows(stored, rows))
            yield piece

    def _unique(self, names: pd.Index, rows: slice) -> pd.Index:
        """Names as stored, of these rows, with the numbers that make them unique."""
        first, stop = np.searchsorted(self._renamed, [rows.start, rows.stop])
        if first == stop:
            return names
        made = names.to_numpy(object, copy=True)
        at = self._renamed[first:stop] - rows.start
        made[at] = [f"{name}-{number}" for name, number in zip(made[at], self._number[first:stop], strict=True)]
        return pd.Index(made, name=names.name)

    def _reading(self, what: str, rows: slice) -> AbstractContextManager[None]:
        return self._file.reading(f"{what}, rows {rows.start} to {rows.stop - 1},")


def table_rows(table: h5py.Group, rows: slice) -> pd.DataFrame:
    """Some rows of a table stored by anndata.

    The rows of each dataset are copied to a file in memory with the same layout, from which anndata reads them, so that each kind of
    column is read as anndata reads it.
    """
    return _element_rows(table, rows)


def _element_rows(stored: h5py.Group | h5py.Dataset, rows: slice) -> Any:
    with h5py.File("rows", "w", driver="core", backing_store=False) as file:
        _copy_rows(stored, file, "rows", rows)
        return ad.io.read_elem(file["rows"])


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
