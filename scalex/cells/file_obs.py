"""Annotation of the cells of a file, read in runs of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.names import make_unique
from scalex.h5ad.matrix import AnnDataFile
from scalex.system.chunks import chunks

__all__ = ["FileTable"]

# Rows that are in memory at a time.
CHUNK_ROWS = 100_000


class FileTable:
    """Annotation of the cells of a file. See `Table` for the attributes and methods.

    Repeated names get suffixes. Only the rows and numbers of these names stay in memory.

    Parameters
    ----------
    file
        The file.
    source
        Name of the source, for messages.
    """

    def __init__(self, file: AnnDataFile, source: str) -> None:
        self._file = file
        table = file.open()["obs"]
        self.columns = [str(column) for column in table.attrs["column-order"]]
        self._index = str(table.attrs["_index"])
        self.n_rows = int(table[self._index].shape[0])
        self._renamed: NDArray[np.int64] = np.empty(0, np.int64)
        self._number: NDArray[np.int64] = np.empty(0, np.int64)
        hashes = self.hash_names()
        if len(np.unique(hashes)) < self.n_rows:
            names = self.read_names(slice(0, self.n_rows))
            unique = make_unique(pd.DataFrame(index=names), "cell", source).index
            self._renamed = np.flatnonzero(unique != names)
            self._number = np.array([int(unique[row][len(names[row]) + 1 :]) for row in self._renamed], np.int64)

    def read(self, rows: slice) -> pd.DataFrame:
        """Read a run of rows, with all columns."""
        rows = self._clip(rows)
        obs: pd.DataFrame = self._file.read_rows("obs", rows)
        obs.index = self._make_unique(obs.index, rows)
        return obs

    def read_names(self, rows: slice) -> pd.Index:
        """Read the names of a run of cells."""
        rows = self._clip(rows)
        return self._make_unique(pd.Index(self._file.read_rows(f"obs/{self._index}", rows), dtype=object), rows)

    def hash_names(self) -> NDArray[np.uint64]:
        """Return a hash of each name, (n_rows,). Collisions are practically impossible."""
        hashes = np.empty(self.n_rows, np.uint64)
        for rows in chunks(self.n_rows, CHUNK_ROWS):
            hashes[rows] = pd.util.hash_array(self.read_names(rows).to_numpy(object), categorize=False)
        return hashes

    def iter_column(self, name: str) -> Iterator[pd.Series]:
        """Yield a column in one or more chunks, without cell names."""
        for rows in list(chunks(self.n_rows, CHUNK_ROWS)) or [slice(0, 0)]:
            yield pd.Series(self._file.read_rows(f"obs/{name}", rows))

    def _clip(self, rows: slice) -> slice:
        first, stop, _ = rows.indices(self.n_rows)
        return slice(first, max(first, stop))

    def _make_unique(self, names: pd.Index, rows: slice) -> pd.Index:
        """Add the suffixes to the stored names of these rows."""
        first, stop = np.searchsorted(self._renamed, [rows.start, rows.stop])
        if first == stop:
            return names
        unique = names.to_numpy(object, copy=True)
        position = self._renamed[first:stop] - rows.start
        unique[position] = [f"{name}-{number}" for name, number in zip(unique[position], self._number[first:stop], strict=True)]
        return pd.Index(unique, name=names.name)
