"""A matrix of an AnnData in a file, read in runs of rows."""

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
def _compact(values: NDArray[Any], start: NDArray[np.int64], length: NDArray[np.int64]) -> None:
    """Move runs of values to the front, one after the other. `start` ascends."""
    end = 0
    for i in range(len(start)):
        for k in range(start[i], start[i] + length[i]):
            values[end] = values[k]
            end += 1


class Values(Protocol):
    """Array in a file, read in runs of its first axis."""

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of the values."""
        ...

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        ...

    @property
    def max_gap(self) -> int:
        """Number of values between two reads up to which one read that includes them is faster."""
        ...

    def read_direct(self, values: NDArray[Any], part: slice) -> None:
        """Read a run of values into an array of the same type and shape."""
        ...


class AnnDataFile(Protocol):
    """File with an AnnData in the layout of anndata, opened by h5py or a library with the same interface."""

    @property
    def path(self) -> Path:
        """Path of the file."""
        ...

    @property
    def identity(self) -> str:
        """Text that identifies the file and its state."""
        ...

    def open(self) -> Any:
        """Return the group at the root, which holds X, obs and var."""
        ...

    def open_values(self, name: str) -> Values:
        """Return an array, to read its values."""
        ...

    def read_rows(self, name: str, rows: slice) -> Any:
        """Read some rows of an element as anndata does."""
        ...

    def explain_errors(self, what: str) -> AbstractContextManager[None]:
        """Turn errors of reading into one that names the file and what is read."""
        ...


class StoredMatrix:
    """CSR or dense matrix in a file, or the transpose of a CSC matrix. Several threads may read at once.

    Parameters
    ----------
    file
        The file, or the path of an .h5ad file.
    name
        Name of the matrix in the file: "X", "raw/X" or "layers/<name>".

    Attributes
    ----------
    file : AnnDataFile
        The file.
    shape : tuple of int
        (n_cells, n_features), or (n_features, n_cells) for a CSC matrix.

    Raises
    ------
    OSError
        If the matrix cannot be read.
    ValueError
        If the parts of the stored matrix do not fit together.
    """

    def __init__(self, file: str | Path | AnnDataFile, name: str) -> None:
        self.file: AnnDataFile = StoredFile(file) if isinstance(file, str | Path) else file
        self.name = name
        stored = self.file.open()[name]
        dense = not hasattr(stored, "keys")
        n_cells, n_features = map(int, stored.shape if dense else stored.attrs["shape"])
        transposed = not dense and stored.attrs.get("encoding-type") == "csc_matrix"
        self.shape = (n_features, n_cells) if transposed else (n_cells, n_features)
        self._row_name, self._column_name = ("column", "row") if transposed else ("row", "column")
        # For CSR, the start of each row among the values.
        self._indptr: NDArray[np.int64] | None = None if dense else self._read_indptr(stored)
        self._data, self._indices = (self.file.open_values(name if dense else f"{name}/{part}") for part in ("data", "indices"))

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Read the stored values of rows.

        Parameters
        ----------
        rows
            A slice, or (n_rows,) ascending, distinct rows.

        Returns
        -------
        csr_matrix
            (n_rows, n_features) float32. Columns ascend in each row, and values that are stored twice are added.

        Raises
        ------
        OSError
            If the file is gone, changed or damaged.
        ValueError
            If a stored column is outside the matrix.
        """
        rows = np.arange(*rows.indices(self.shape[0])) if isinstance(rows, slice) else np.asarray(rows, np.int64)
        assert len(rows) == 0 or (rows[0] >= 0 and rows[-1] < self.shape[0] and (np.diff(rows) > 0).all()), "rows ascend, each once"
        return self._read_dense(rows) if self._indptr is None else self._read_sparse(rows, self._indptr)

    def count_values_per_row(self) -> NDArray[np.int64]:
        """Return the number of stored values of each row, (n_rows,)."""
        return np.full(self.shape[0], self.shape[1]) if self._indptr is None else np.diff(self._indptr)

    def _read_sparse(self, rows: NDArray[np.int64], starts: NDArray[np.int64]) -> sparse.csr_matrix:
        begin, end = starts[rows], starts[rows + 1]
        data = self._read_values(self._data, rows, begin, end).astype(np.float32, copy=False)
        indices = self._read_values(self._indices, rows, begin, end)
        n_features = self.shape[1]
        if len(indices) and (indices.min() < 0 or indices.max() >= n_features):
            raise ValueError(
                f"{self.file.path}: {self.name} has values in {self._column_name}s {indices.min()} to {indices.max()} of "
                f"{self._row_name}s {rows[0]} to {rows[-1]}, but only {n_features} {self._column_name}s, counted from 0. The file is "
                "damaged: write it again."
            )
        indptr = np.concatenate([[0], np.cumsum(end - begin)])
        matrix = sparse.csr_matrix((data, indices.astype(np.int32, copy=False), indptr), shape=(len(rows), n_features))
        matrix.sum_duplicates()
        return matrix

    def _read_dense(self, rows: NDArray[np.int64]) -> sparse.csr_matrix:
        n_features = max(self.shape[1], 1)
        parts = [sparse.csr_matrix((0, self.shape[1]), dtype=np.float32)]
        for part in chunks(len(rows), max(DENSE_VALUES // n_features, 1)):
            values = self._read_values(self._data, rows[part], rows[part], rows[part] + 1)
            parts.append(sparse.csr_matrix(values, dtype=np.float32))
        return parts[1] if len(parts) == 2 else sparse.vstack(parts, format="csr")

    def _read_values(
        self,
        stored: Values,
        rows: NDArray[np.int64],
        begin: NDArray[np.int64],
        end: NDArray[np.int64],
    ) -> NDArray[np.generic]:
        """Read the values from `begin` to `end` of each row, in the type of the file. Rows with a small gap between are read at once."""
        row_shape = stored.shape[1:]
        max_gap = stored.max_gap // max(math.prod(row_shape), 1)
        if len(rows) == 0:
            return np.empty((0, *row_shape), stored.dtype)
        gap = np.append(begin[1:] - end[:-1], 0)
        last = np.flatnonzero(np.append(gap[:-1] > max_gap, True))
        first = np.append(0, last[:-1] + 1)
        n_values = end[last] - begin[first]
        values: NDArray[np.generic] = np.empty((int(n_values.sum()), *row_shape), stored.dtype)
        n_read = 0
        for i, j, n in zip(first.tolist(), last.tolist(), n_values.tolist(), strict=True):
            if n == 0:
                continue
            with self.file.explain_errors(f"{self.name}, {self._row_name}s {rows[i]} to {rows[j]}"):
                stored.read_direct(values[n_read : n_read + n], np.s_[int(begin[i]) : int(end[j])])
            n_read += n
        gap[last] = 0
        if not gap.any():
            return values
        length = end - begin
        start = np.cumsum(length + gap) - length - gap
        # Viewed as unsigned integers, values of one size need one compiled function.
        _compact(values.view(f"u{values.itemsize}"), start, length)
        kept: NDArray[np.generic] = values[: length.sum()]
        return kept

    def _read_indptr(self, stored: Any) -> NDArray[np.int64]:
        with self.file.explain_errors(f"{self.name}/indptr"):
            indptr = stored["indptr"][:].astype(np.int64)
        n_values, n_columns = stored["data"].shape[0], stored["indices"].shape[0]
        problem = None
        if len(indptr) != self.shape[0] + 1:
            problem = f"it has {len(indptr)} {self._row_name} pointers, but {self.shape[0]} {self._row_name}s need {self.shape[0] + 1}"
        elif indptr[0] != 0 or (indptr[1:] < indptr[:-1]).any():
            problem = f"its {self._row_name} pointers do not ascend from 0"
        elif n_values != n_columns or indptr[-1] != n_values:
            problem = (
                f"its {self._row_name}s end at value {indptr[-1]}, but {n_values} values and {n_columns} {self._column_name}s are stored"
            )
        if problem is not None:
            kind = "CSR" if self._row_name == "row" else "CSC"
            raise ValueError(f"{self.file.path}: {self.name} is not a {kind} matrix: {problem}. The file is damaged: write it again.")
        return np.asarray(indptr)
