"""Cells whose matrix and annotation stay in their files and are read in runs of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.protocol import Store, Table
from scalex.features.annotation import stack_tables

__all__ = ["BackedCells", "read_rows"]

# Rows of the annotation that are in memory at a time while some of them are selected.
CHUNK_ROWS = 100_000


@dataclass(frozen=True)
class BackedCells:
    """Cells of which at least some stay on disk. See `Cells` for the attributes.

    Parameters
    ----------
    store
        The store that they are read from.
    domain, label
        As in `Cells`.
    subset
        (n_cells,) ascending rows of `store` that are the cells; None: all.
    memory_gb, cache
        As in `Cells`.
    identity
        Text that identifies the cells: the files with their sizes and times, and the options that select and name cells; None: unknown.
    """

    store: Store
    domain: pd.Categorical
    label: pd.Categorical | None = None
    subset: NDArray[np.int64] | None = None
    memory_gb: float | None = None
    cache: Path | None = None
    identity: str | None = None

    @property
    def in_memory(self) -> bool:
        """False: some of them stay on disk."""
        return False

    @property
    def var(self) -> pd.DataFrame:
        """Annotation of the features."""
        return self.store.var

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of all cells, read at each use."""
        return self.read_obs(slice(0, len(self.domain)))

    def read_obs(self, rows: slice) -> pd.DataFrame:
        """Read the annotation of a run of cells."""
        return self.store.table.read(rows) if self.subset is None else read_rows(self.store.table, self.subset[rows])

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Read the stored values of a slice or of ascending, distinct rows: (len(rows), n_features) float32."""
        return self.store.matrix.read(rows if self.subset is None else self.subset[rows])


def read_rows(table: Table, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Read some rows of a table. The rows between them are read as well and dropped.

    Parameters
    ----------
    table
        The table.
    rows
        (n_rows,) ascending.
    """
    parts = []
    for own in np.split(rows, np.flatnonzero(np.diff(rows // CHUNK_ROWS)) + 1):
        first, stop = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
        parts.append(table.read(slice(first, stop)).iloc[own - first])
    return stack_tables(parts)
