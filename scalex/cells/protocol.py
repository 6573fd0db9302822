"""Interfaces of cells, which may be in memory or in files."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["CellSource", "Cells", "Matrix", "Store", "Table"]


class Cells(Protocol):
    """Cells x features, with the domain of each cell. The matrix, and a large annotation, are read in runs of rows."""

    @property
    def obs(self) -> pd.DataFrame:
        """(n_cells, ...) annotation of the cells. The index holds unique cell names."""
        ...

    @property
    def var(self) -> pd.DataFrame:
        """(n_features, ...) annotation of the features. The index holds unique feature names."""
        ...

    @property
    def domain(self) -> pd.Categorical:
        """(n_cells,) domain of each cell, none missing."""
        ...

    @property
    def label(self) -> pd.Categorical | None:
        """(n_cells,) known type of each cell; None if there are no labels."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether the model's inputs are kept in memory. Otherwise they are read again each time."""
        ...

    @property
    def memory_gb(self) -> float | None:
        """Memory that reading may take during training, in GB; None: a quarter of the free memory."""
        ...

    @property
    def cache(self) -> Path | None:
        """Folder for results that take long to compute; None: nothing is kept."""
        ...

    @property
    def identity(self) -> str | None:
        """Text that identifies the cells, to name their files in the cache; None: unknown."""
        ...

    def read_obs(self, rows: slice) -> pd.DataFrame:
        """Read a run of rows of `obs`, (len(rows), ...)."""
        ...

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Read the stored values of `rows`, (len(rows), n_features) float32."""
        ...


class CellSource(Protocol):
    """Options from which cells are opened. Creating one reads nothing."""

    def open(self) -> Cells:
        """Open the cells.

        Raises
        ------
        FileNotFoundError, KeyError, ValueError
            If the source does not hold what the options name.
        """
        ...


class Matrix(Protocol):
    """Values of cells, read in runs of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n_cells, n_features)."""
        ...

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Read the stored values of a slice or of ascending, distinct rows: (len(rows), n_features) float32, columns ascending."""
        ...


class Table(Protocol):
    """Annotation of cells, read in runs of rows."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        ...

    @property
    def n_rows(self) -> int:
        """Number of cells."""
        ...

    def read(self, rows: slice) -> pd.DataFrame:
        """Read a run of rows, with all columns."""
        ...

    def read_names(self, rows: slice) -> pd.Index:
        """Read the names of a run of cells. They are unique within the table."""
        ...

    def hash_names(self) -> NDArray[np.uint64]:
        """Return a hash of each name, (n_rows,). Collisions are practically impossible."""
        ...

    def iter_column(self, name: str) -> Iterator[pd.Series]:
        """Yield a column in one or more chunks, without cell names."""
        ...


class Store(Protocol):
    """Cells of one source, or of several that are joined, without their domains."""

    @property
    def matrix(self) -> Matrix:
        """(n_cells, n_features) values."""
        ...

    @property
    def table(self) -> Table:
        """Annotation of the cells."""
        ...

    @property
    def var(self) -> pd.DataFrame:
        """(n_features, ...) annotation of the features. The index holds unique feature names."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether all of it is in memory."""
        ...
