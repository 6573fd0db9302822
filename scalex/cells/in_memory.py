"""Cells whose matrix lies in memory."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["InMemoryCells"]


@dataclass(frozen=True)
class InMemoryCells:
    """Cells with their matrix in memory, (n_cells, n_features) CSR float32. See `Cells` for the other attributes."""

    matrix: sparse.csr_matrix
    obs: pd.DataFrame
    var: pd.DataFrame
    domain: pd.Categorical
    label: pd.Categorical | None = None

    def __post_init__(self) -> None:
        assert self.matrix.shape == (len(self.obs), len(self.var))
        assert len(self.domain) == len(self.obs)
        assert (np.asarray(self.domain.codes) >= 0).all(), "each cell has a domain"

    @property
    def in_memory(self) -> bool:
        """They are."""
        return True

    @property
    def memory_gb(self) -> None:
        """Nothing is read."""
        return

    @property
    def cache(self) -> None:
        """Nothing is kept."""
        return

    @property
    def identity(self) -> None:
        """It is not known."""
        return

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        return self.obs.iloc[rows]

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, (len(rows), n_features) float32."""
        return self.matrix[rows]
