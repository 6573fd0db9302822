"""Cells whose matrix and annotation stay in their files and are read piece by piece."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.h5ad_cells import not_backed_because
from scalex.cells.h5ad_obs import PIECE_ROWS, table_rows

__all__ = ["BackedCells", "ChosenCells", "OnDisk", "not_backed_because", "table_rows"]


class OnDisk(Protocol):
    """What is read of cells on disk: of one file, of several, or of some of their rows."""

    @property
    def var(self) -> pd.DataFrame:
        """Annotation of the features."""
        ...

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        ...

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        ...

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32; an array of rows ascends, each once."""
        ...


@dataclass(frozen=True)
class BackedCells:
    """Cells whose matrix and annotation stay on disk. See `Cells` for the attributes.

    Parameters
    ----------
    stored
        Where they are read.
    domain, label
        As in `Cells`.
    memory_gb
        Memory that reading them may take while they are trained on, in GB; None: a quarter of what is free then.
    cache
        Folder for what is made of them and takes long; None: nothing is kept.
    identity
        Text that says which cells they are: the files with their sizes and times, and what is taken of them.
    """

    stored: OnDisk
    domain: pd.Categorical
    label: pd.Categorical | None = None
    memory_gb: float | None = None
    cache: Path | None = None
    identity: str = ""

    @property
    def in_memory(self) -> bool:
        """They stay on disk."""
        return False

    @property
    def var(self) -> pd.DataFrame:
        """The annotation of the features."""
        return self.stored.var

    @property
    def obs(self) -> pd.DataFrame:
        """The annotation of all cells, read at each use."""
        return self.stored.annotation(slice(0, self.stored.n_cells))

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        return self.stored.annotation(rows)

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32; an array of rows ascends, each once."""
        return self.stored.read(rows)


@dataclass(frozen=True)
class ChosenCells:
    """Some of the cells on disk.

    Parameters
    ----------
    all_cells
        Of which they are chosen.
    chosen
        (n_chosen,) their rows, ascending.
    """

    all_cells: OnDisk
    chosen: NDArray[np.int64]

    @property
    def var(self) -> pd.DataFrame:
        """The annotation of the features."""
        return self.all_cells.var

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return len(self.chosen)

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of the chosen cells, for which those between them are read too."""
        chosen = self.chosen[rows]
        parts = []
        for own in np.split(chosen, np.flatnonzero(np.diff(chosen // PIECE_ROWS)) + 1):
            first, stop = (int(own[0]), int(own[-1]) + 1) if len(own) else (0, 0)
            parts.append(self.all_cells.annotation(slice(first, stop)).iloc[own - first])
        return parts[0] if len(parts) == 1 else pd.concat(parts)

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32; an array of rows ascends, each once."""
        return self.all_cells.read(self.chosen[rows])
