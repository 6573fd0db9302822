"""Cells of one .h5ad file, read from it piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["BackedCells", "not_backed_because", "table_rows"]


@dataclass(frozen=True)
class BackedCells:
    """Cells whose matrix and annotation stay in an .h5ad file. See `Cells` for the attributes.

    Parameters
    ----------
    file
        The open file.
    matrix
        Where in it the matrix is: "X" or "layers/<name>", CSR or dense.
    var, domain, label
        As in `Cells`.
    """

    file: h5py.File
    matrix: str
    var: pd.DataFrame
    domain: pd.Categorical
    label: pd.Categorical | None = None

    @property
    def obs(self) -> pd.DataFrame:
        """The annotation of all cells, read at each use."""
        return ad.io.read_elem(self.file["obs"])

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        return table_rows(self.file["obs"], rows)

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32; an array of rows must ascend, and all between are read."""
        if isinstance(rows, slice):
            return self._run(rows)
        first, stop = int(rows[0]), int(rows[-1]) + 1
        run = self._run(slice(first, stop))
        return run if stop - first == len(rows) else run[rows - first]

    def _run(self, rows: slice) -> sparse.csr_matrix:
        stored = self.file[self.matrix]
        values = stored[rows] if isinstance(stored, h5py.Dataset) else ad.io.sparse_dataset(stored)[rows]
        matrix = sparse.csr_matrix(values, dtype=np.float32)
        matrix.sum_duplicates()
        return matrix


def not_backed_because(path: Path, matrix: str) -> str | None:
    """Why the cells of a file cannot be read piece by piece; None if they can."""
    try:
        with h5py.File(path) as file:
            if matrix not in file:
                return f"{matrix} is not in it"
            stored = file[matrix]
            if not isinstance(stored, h5py.Dataset) and stored.attrs.get("encoding-type") != "csr_matrix":
                return f"{matrix} is stored as {stored.attrs.get('encoding-type', 'an old format')}, not by rows"
            if file["obs"].attrs.get("encoding-type") != "dataframe" or "__categories" in file["obs"]:
                return "obs is in an old format"
    except (OSError, KeyError):
        return "it is not an .h5ad file of a known format"
    return None


def table_rows(table: h5py.Group, rows: slice) -> pd.DataFrame:
    """Some rows of a table stored by anndata.

    The rows of each dataset are copied to a file in memory with the same layout, from which anndata reads them, so that each kind of
    column is read as anndata reads it.
    """
    with h5py.File("rows", "w", driver="core", backing_store=False) as file:
        _copy_rows(table, file.create_group("table"), rows)
        return ad.io.read_elem(file["table"])


def _copy_rows(stored: h5py.Group, copy: h5py.Group, rows: slice) -> None:
    copy.attrs.update(stored.attrs)
    for name, element in stored.items():
        if name == "categories" and stored.attrs["encoding-type"] == "categorical":
            stored.copy(element, copy, name)
        elif isinstance(element, h5py.Dataset):
            dataset: Any = copy.create_dataset(name, data=element[rows], dtype=element.dtype)
            dataset.attrs.update(element.attrs)
        else:
            _copy_rows(element, copy.create_group(name), rows)
