"""Annotation of the cells of a file, read in runs of rows."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.annotation import make_writable_names
from scalex.features.names import make_text, make_unique
from scalex.h5ad.matrix import AnnDataFile
from scalex.system.chunks import chunks

__all__ = ["FileTable", "is_nullable_text"]

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
        stored = [str(column) for column in table.attrs["column-order"]]
        self.columns = make_writable_names(stored, f"obs of {source}")
        self._stored_name = dict(zip(self.columns, stored, strict=True))
        self._index = str(table.attrs["_index"])
        self.n_rows = int((table[f"{self._index}/values"] if is_nullable_text(table[self._index]) else table[self._index]).shape[0])
        self._categories = {name: self._find_categories(table[name]) for name in stored if is_nullable_text(table[name])}
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
        obs.index = self._make_unique(make_text(obs.index), rows)
        converted = {name: self._convert(stored, obs[stored]) for name, stored in self._stored_name.items()}
        return pd.DataFrame(converted, index=obs.index, columns=pd.Index(self.columns, dtype=object))

    def read_names(self, rows: slice) -> pd.Index:
        """Read the names of a run of cells."""
        rows = self._clip(rows)
        return self._make_unique(make_text(pd.Index(self._file.read_rows(f"obs/{self._index}", rows))), rows)

    def hash_names(self) -> NDArray[np.uint64]:
        """Return a hash of each name, (n_rows,). Collisions are practically impossible."""
        hashes = np.empty(self.n_rows, np.uint64)
        for rows in chunks(self.n_rows, CHUNK_ROWS):
            hashes[rows] = pd.util.hash_array(self.read_names(rows).to_numpy(object), categorize=False)
        return hashes

    def iter_column(self, name: str) -> Iterator[pd.Series]:
        """Yield a column in one or more chunks, without cell names."""
        for rows in list(chunks(self.n_rows, CHUNK_ROWS)) or [slice(0, 0)]:
            stored = self._stored_name[name]
            yield self._convert(stored, pd.Series(self._file.read_rows(f"obs/{stored}", rows)))

    def _find_categories(self, column: Any) -> pd.Index | None:
        """Return the categories of nullable text, for all its chunks; None if no value is missing, so that it stays text."""
        with self._file.explain_errors(column.name):
            if not any(column["mask"][rows].any() for rows in chunks(self.n_rows, CHUNK_ROWS)):
                return None
        name = column.name.strip("/")
        parts = [pd.Series(self._file.read_rows(name, rows)).dropna().unique() for rows in chunks(self.n_rows, CHUNK_ROWS)]
        return pd.Index(sorted({str(text) for part in parts for text in part}), dtype=object)

    def _convert(self, name: str, values: pd.Series) -> pd.Series:
        """Return nullable text as plain text or, if a value of the column is missing, as categories. Others stay as they are."""
        if isinstance(values.dtype, pd.CategoricalDtype) and isinstance(values.cat.categories.dtype, pd.StringDtype):
            return values.cat.rename_categories(values.cat.categories.astype(object))
        if name not in self._categories:
            return values
        categories = self._categories[name]
        text = values.astype(object)
        return text if categories is None else pd.Series(pd.Categorical(text, categories=categories), index=values.index, name=values.name)

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


def is_nullable_text(stored: Any) -> bool:
    """Return whether a column is stored as texts of which some may be missing, as by pandas 3."""
    return str(stored.attrs.get("encoding-type")) == "nullable-string-array"
