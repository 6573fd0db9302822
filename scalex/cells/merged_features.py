"""Cells whose features are merged into others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.protocol import Cells

__all__ = ["MergedFeatures"]


@dataclass(frozen=True)
class MergedFeatures:
    """Cells with other features, of which each is the sum of some of their own. See `Cells` for the attributes.

    Parameters
    ----------
    cells
        Whose features they are.
    var
        The new features.
    position
        (n_features,) which of the new ones each of the features of `cells` belongs to; -1: none.
    """

    cells: Cells
    var: pd.DataFrame
    position: NDArray[np.int64]

    @property
    def obs(self) -> pd.DataFrame:
        """The annotation of the cells."""
        return self.cells.obs

    @property
    def domain(self) -> pd.Categorical:
        """Domain of each cell."""
        return self.cells.domain

    @property
    def label(self) -> pd.Categorical | None:
        """Known type of each cell."""
        return self.cells.label

    @property
    def in_memory(self) -> bool:
        """Whether those cells are."""
        return self.cells.in_memory

    @property
    def memory_gb(self) -> float | None:
        """Memory that reading them may take."""
        return self.cells.memory_gb

    @property
    def cache(self) -> Path | None:
        """Folder for what is made of them."""
        return self.cells.cache

    @property
    def identity(self) -> None:
        """It is not known."""
        return

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        return self.cells.annotation(rows)

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Values of `rows`, (len(rows), n_features) float32."""
        kept = np.flatnonzero(self.position >= 0)
        shape = (len(self.position), len(self.var))
        merge = sparse.csr_matrix((np.ones(len(kept), np.float32), (kept, self.position[kept])), shape=shape)
        values = (self.cells.read(rows) @ merge).tocsr()
        values.sort_indices()
        return values
