"""Cells whose matrix and annotation stay in their files and are read in runs of rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.protocol import Store, Table

__all__ = ["BackedCells", "read_rows"]

# Rows of the annotation that are in memory at a time, where some of them are chosen.
RUN_ROWS = 100_000


@dataclass(frozen=True)
class BackedCells:
    """Cells of which some stay on disk. See `Cells` for the attributes.

    Parameters
    ----------
    stored
        Where they are read.
    domain, label
        As in `Cells`.
    chosen
        (n_cells,) rows of `stored`, ascending, that are the cells; None: all.
    memory_gb
        Memory that reading them may take while they are trained on, in GB; None: a quarter of what is free then.
    cache
        Folder for what is made of them and takes long; None: nothing is kept.
    identity
        Text that says which cells they are: the files with their sizes and times, and what is taken of them; None: it is not known.
    """

    stored: Store
    domain: pd.Categorical
    label: pd.Categorical | None = None
    chosen: NDArray[np.int64] | None = None
    memory_gb: float | None = None
    cache: Path | None = None
    identity: str | None = None

    @property
    def in_memory(self) -> bool:
        """Some of them stay on disk."""
        return False

    @property
    def var(self) -> pd.DataFrame:
        """The annotation of the features."""
        return self.stored.var

    @property
    def obs(self) -> pd.DataFrame:
        """The annotation of all cells, read at each use."""
        return self.annotation(slice(0, len(self.domain)))

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        return self.stored.table.rows(rows) if self.chosen is None else read_rows(self.stored.table, self.chosen[rows])

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32; an array of rows ascends, each once."""
        return self.stored.matrix.read(rows if self.chosen is None else self.chosen[rows])


def read_rows(table: Table, rows: NDArray[np.int64]) -> pd.DataFrame:
    """Some rows of a table, for which those between them are read too.

    Parameters
    ----------
    table
        The table.
    rows
        (n_rows,) ascending.
    """
    parts = []
    for own in np.split(rows, np.flatnonzero(np.diff(rows // RUN_ROWS)) + 1):
        first, stop = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
        parts.append(table.rows(slice(first, stop)).iloc[own - first])
    return parts[0] if len(parts) == 1 else pd.concat(parts)
