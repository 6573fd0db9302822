"""A matrix of an AnnData in a file, read from it row by row."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numba import njit
from numpy.typing import NDArray
from scipy import sparse

from scalex.h5ad.open_file import StoredFile
from scalex.system.chunks import chunks

__all__ = ["AnnDataFile", "StoredMatrix", "Values"]

# Values of a dense matrix that are in memory at a time.
DENSE_VALUES = 1 << 24


@njit(nogil=True, cache=True)
def _move_together(values: NDArray[Any], start: NDArray[np.int64], length: NDArray[np.int64]) -> None:
    """Move runs of values, each with its beginning, ascending, and its length, to the front, one after the other."""
    at = 0
    for i in range(len(start)):
        for k in range(start[i], start[i] + length[i]):
            values[at] = values[k]
            at += 1


class Values(Protocol):
    """An array in a file, read in runs of its first axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the array."""
        ...

    @property
    def gap(self) -> int:
        """Values that are rather read in vain than left out between two reads."""
        ...

    def read_direct(self, values: NDArray[Any], part: slice) -> None:
        """Put a run of the values into an array of their type and shape."""
        ...


class AnnDataFile(Protocol):
    """A file with an AnnData in anndata's layout, of h5py or of a library with the same interface."""

    @property
    def path(self) -> Path:
        """Where it is."""
        ...

    @property
    def identity(self) -> str:
        """Text that says which file it is, and in which state."""
        ...

    def open(self) -> Any:
        """The group at the root, which holds X, obs and var."""
        ...

    def values(self, name: str) -> Values:
        """The values of an array."""
        ...

    def read_rows(self, name: str, rows: slice) -> Any:
        """Some rows of an element, as anndata reads them."""
        ...

    def reading(self, what: str) -> AbstractContextManager[None]:
        """Name the file and what is read from it where that fails."""
        ...


class StoredMatrix:
    """A CSR or dense matrix that stays in its file; of a CSC matrix, its transpose. Several threads may read at once.

    Parameters
    ----------
    file
        The file, or where there is an .h5ad file.
    name
        Where in it the matrix is: "X" or "layers/<name>".

    Attributes
    ----------
    file : AnnDataFile
        The file.
    shape : tuple of int
        (n_cells, n_features); of a CSC matrix (n_features, n_cells).

    Raises
    ------
    OSError
        The matrix cannot be read.
    ValueError
        The parts of the stored matrix do not fit together.
    """

    def __init__(self, file: str | Path | AnnDataFile, name: str) -> None:
        self.file: AnnDataFile = StoredFile(file) if isinstance(file, str | Path) else file
        self.name = name
        stored = self.file.open()[name]
        dense = not hasattr(stored, "keys")
        n_cells, n_features = map(int, stored.shape if dense else stored.attrs["shape"])
        transposed = not dense and stored.attrs.get("encoding-type") == "csc_matrix"
        self.shape = (n_features, n_cells) if transposed else (n_cells, n_features)
        self._row, self._column = ("column", "row") if transposed else ("row", "column")
        # Of CSR, where each row begins among the values.
        self._indptr: NDArray[np.int64] | None = None if dense else self._row_pointers(stored)
        self._data, self._indices = (self.file.values(name if dense else f"{name}/{part}") for part in ("data", "indices"))

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`.

        Parameters
        ----------
        rows
            A run of rows, or (n_rows,) ascending ones, each once.

        Returns
        -------
        csr_matrix
            (n_rows, n_features) float32, columns ascending in each row, values stored twice added.

        Raises
        ------
        OSError
            The file is gone, changed or damaged.
        ValueError
            A stored column is not one of the matrix.
        """
        rows = np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else np.asarray(rows, np.int64)
        assert len(rows) == 0 or (rows[0] >= 0 and rows[-1] < self.shape[0] and (np.diff(rows) > 0).all()), "rows ascend, each once"
        return self._dense(rows) if self._indptr is None else self._sparse(rows, self._indptr)

    def values_per_row(self) -> NDArray[np.int64]:
        """How many values are stored of each row."""
        return np.full(self.shape[0], self.shape[1]) if self._indptr is None else np.diff(self._indptr)

    def _sparse(self, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> sparse.csr_matrix:
        begin, end = starts[rows], starts[rows + 1]
        data = self._read(self._data, rows, begin, end).astype(np.float32, copy=False)
        indices = self._read(self._indices, rows, begin, end)
        n_features = self.shape[1]
        if len(indices) and (indices.min() < 0 or indices.max() >= n_features):
            raise ValueError(
                f"{self.file.path}: {self.name} names {self._column}s from {indices.min()} to {indices.max()} in {self._row}s {rows[0]} to "
                f"{rows[-1]}, but has {n_features} of them, counted from 0. The file is damaged: write it again."
            )
        indptr = np.concatenate([[0], np.cumsum(end - begin)])
        matrix = sparse.csr_matrix((data, indices.astype(np.int32, copy=False), indptr), shape=(len(rows), n_features))
        matrix.sum_duplicates()
        return matrix

    def _dense(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        n_features = max(self.shape[1], 1)
        parts = [sparse.csr_matrix((0, self.shape[1]), dtype=np.float32)]
        for part in chunks(len(rows), max(DENSE_VALUES // n_features, 1)):
            values = self._read(self._data, rows[part], rows[part], rows[part] + 1)
            parts.append(sparse.csr_matrix(values, dtype=np.float32))
        return parts[1] if len(parts) == 2 else sparse.vstack(parts, format="csr")

    def _read(
        self,
        stored: Values,
        rows: NDArray[np.int64],
        begin: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> NDArray[np.generic]:
        """What stands from `begin` to `end` of each row, in the type of the file; rows with a small gap between are read at once."""
        of_row = stored.shape[1:]
        gap = stored.gap // max(math.prod(of_row), 1)
        if len(rows) == 0:
            return np.empty((0, *of_row), stored.dtype)
        skipped = np.append(begin[1:] - end[:-1], 0)
        last = np.flatnonzero(np.append(skipped[:-1] > gap, True))
        first = np.append(0, last[:-1] + 1)
        n_values = end[last] - begin[first]
        values: NDArray[np.generic] = np.empty((int(n_values.sum()), *of_row), stored.dtype)
        at = 0
        for i, j, n in zip(first.tolist(), last.tolist(), n_values.tolist(), strict=True):
            if n == 0:
                continue
            with self.file.reading(f"{self.name}, {self._row}s {rows[i]} to {rows[j]}"):
                stored.read_direct(values[at : at + n], np.s_[int(begin[i]) : int(end[j])])
            at += n
        skipped[last] = 0
        if not skipped.any():
            return values
        length = end - begin
        start = np.cumsum(length + skipped) - length - skipped
        # As whole numbers of that size: what they mean does not matter.
        _move_together(values.view(f"u{values.itemsize}"), start, length)
        kept: NDArray[np.generic] = values[: length.sum()]
        return kept

    def _row_pointers(self, stored: Any) -> NDArray[np.int64]:
        with self.file.reading(f"{self.name}/indptr"):
            indptr = stored["indptr"][:].astype(np.int64)
        n_values, n_columns = stored["data"].shape[0], stored["indices"].shape[0]
        problem = None
        if len(indptr) != self.shape[0] + 1:
            problem = f"it has {len(indptr)} {self._row} pointers for {self.shape[0]} {self._row}s, where one more is needed"
        elif indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
            problem = f"its {self._row} pointers do not ascend from 0"
        elif n_values != n_columns or indptr[-1] > n_values:
            problem = f"its {self._row}s end at value {indptr[-1]}, but {n_values} values and {n_columns} {self._column}s are stored"
        if problem is not None:
            kind = "CSR" if self._row == "row" else "CSC"
            raise ValueError(f"{self.file.path}: {self.name} is no {kind} matrix: {problem}. The file is damaged: write it again.")
        return np.asarray(indptr)
