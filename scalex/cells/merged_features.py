"""Cells whose features are merged."""

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
    """Cells with new features, each the sum of some of the old ones. See `Cells` for the attributes.

    Parameters
    ----------
    cells
        Cells with the old features.
    var
        Annotation of the new features.
    position
        (n_features,) position of the new feature to which each feature of `cells` is added; -1: none.
    """

    cells: Cells
    var: pd.DataFrame
    position: NDArray[np.int64]

    @property
    def obs(self) -> pd.DataFrame:
        """Annotation of the cells."""
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
        """As in `cells`."""
        return self.cells.in_memory

    @property
    def memory_gb(self) -> float | None:
        """As in `cells`."""
        return self.cells.memory_gb

    @property
    def cache(self) -> Path | None:
        """As in `cells`."""
        return self.cells.cache

    @property
    def identity(self) -> None:
        """None: unknown."""
        return

    def read_obs(self, rows: slice) -> pd.DataFrame:
        """Read the annotation of a run of cells."""
        return self.cells.read_obs(rows)

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Read the values of `rows`, (len(rows), n_new_features) float32."""
        kept = np.flatnonzero(self.position >= 0)
        shape = (len(self.position), len(self.var))
        merge = sparse.csr_matrix((np.ones(len(kept), np.float32), (kept, self.position[kept])), shape=shape)
        values = (self.cells.read(rows) @ merge).tocsr()
        values.sort_indices()
        return values
