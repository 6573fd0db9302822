"""The annotation of the cells of a file, read from it in runs of rows."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.names import make_unique
from scalex.h5ad.matrix import AnnDataFile
from scalex.system.chunks import chunks

__all__ = ["FileTable"]

# Rows that are in memory at a time, where all are gone through.
PIECE_ROWS = 100_000


class FileTable:
    """The annotation of the cells of a file. See `Table` for what it offers.

    Its names are made unique; of them no more is kept than which were changed.

    Parameters
    ----------
    file
        The file.
    source
        Whose cells they are, for messages.
    """

    def __init__(self, file: AnnDataFile, source: str) -> None:
        self._file = file
        table = file.open()["obs"]
        self.columns = [str(column) for column in table.attrs["column-order"]]
        self._index = str(table.attrs["_index"])
        self.n_rows = int(table[self._index].shape[0])
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
        rows = self._run(rows)
        found: pd.DataFrame = self._file.read_rows("obs", rows)
        found.index = self._unique(found.index, rows)
        return found

    def names(self, rows: slice) -> pd.Index:
        """Names of a run of cells."""
        rows = self._run(rows)
        return self._unique(pd.Index(self._file.read_rows(f"obs/{self._index}", rows), dtype=object), rows)

    def name_hashes(self) -> NDArray[np.uint64]:
        """(n_rows,) a number for each name, which no other name has, as good as certainly."""
        hashes = np.empty(self.n_rows, np.uint64)
        for rows in chunks(self.n_rows, PIECE_ROWS):
            hashes[rows] = pd.util.hash_array(self.names(rows).to_numpy(object), categorize=False)
        return hashes

    def column(self, name: str) -> Iterator[pd.Series]:
        """A column piece by piece, without names; there is at least one piece."""
        for rows in list(chunks(self.n_rows, PIECE_ROWS)) or [slice(0, 0)]:
            yield pd.Series(self._file.read_rows(f"obs/{name}", rows))

    def _run(self, rows: slice) -> slice:
        first, stop, _ = rows.indices(self.n_rows)
        return slice(first, max(first, stop))

    def _unique(self, names: pd.Index, rows: slice) -> pd.Index:
        """Names as stored, of these rows, with the numbers that make them unique."""
        first, stop = np.searchsorted(self._renamed, [rows.start, rows.stop])
        if first == stop:
            return names
        made = names.to_numpy(object, copy=True)
        at = self._renamed[first:stop] - rows.start
        made[at] = [f"{name}-{number}" for name, number in zip(made[at], self._number[first:stop], strict=True)]
        return pd.Index(made, name=names.name)
