"""What the rest of the project needs to know of cells, wherever they lie."""

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
    """Cells x features, each cell in one domain; the matrix, and the annotation where it is large, are read in runs of rows."""

    @property
    def obs(self) -> pd.DataFrame:
        """(n_cells, ...) annotation of the cells; the index holds unique cell names."""
        ...

    @property
    def var(self) -> pd.DataFrame:
        """(n_features, ...) annotation of the features; the index holds unique feature names."""
        ...

    @property
    def domain(self) -> pd.Categorical:
        """(n_cells,) domain of each cell, none missing."""
        ...

    @property
    def label(self) -> pd.Categorical | None:
        """(n_cells,) known type of each cell, or None."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether what the model gets of them is kept in memory, else it is read again each time."""
        ...

    @property
    def memory_gb(self) -> float | None:
        """Memory that reading them may take while they are trained on, in GB; None: a quarter of what is free then."""
        ...

    @property
    def cache(self) -> Path | None:
        """Folder for what is made of them and takes long; None: nothing is kept."""
        ...

    @property
    def identity(self) -> str | None:
        """Text that says which cells they are, to name what is kept of them; None: it is not known."""
        ...

    def annotation(self, rows: slice) -> pd.DataFrame:
        """(len(rows), ...) a run of rows of `obs`."""
        ...

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32."""
        ...


class CellSource(Protocol):
    """The options from which cells are opened; making one reads nothing."""

    def open(self) -> Cells:
        """Open the cells.

        Raises
        ------
        FileNotFoundError, KeyError, ValueError
            Where the source does not hold what the options name.
        """
        ...


class Matrix(Protocol):
    """The values of some cells, read in runs of rows."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n_cells, n_features)."""
        ...

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32, columns ascending; an array of rows ascends, each once."""
        ...


class Table(Protocol):
    """The annotation of some cells, read in runs of rows."""

    @property
    def columns(self) -> list[str]:
        """Names of the columns."""
        ...

    @property
    def n_rows(self) -> int:
        """Number of cells."""
        ...

    def rows(self, rows: slice) -> pd.DataFrame:
        """A run of rows, with all columns."""
        ...

    def names(self, rows: slice) -> pd.Index:
        """Names of a run of cells, none of them repeated in the table."""
        ...

    def name_hashes(self) -> NDArray[np.uint64]:
        """(n_rows,) a number for each name, which no other name has, as good as certainly."""
        ...

    def column(self, name: str) -> Iterator[pd.Series]:
        """A column piece by piece, without names; there is at least one piece."""
        ...


class Store(Protocol):
    """Cells before their domains are known: those of one source, or of several that are joined."""

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
        """(n_features, ...) annotation of the features; the index holds unique feature names."""
        ...

    @property
    def in_memory(self) -> bool:
        """Whether all of it is in memory."""
        ...
