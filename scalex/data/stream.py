"""Minibatches read from cells."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from torch.utils.data import Dataset

from scalex.data.batch import CellBatch

__all__ = ["PreparedCells", "dense_rows"]


def dense_rows(matrix: sparse.csr_matrix, rows: NDArray[np.int64]) -> torch.Tensor:
    """The `rows` of a sparse matrix as a dense tensor, (len(rows), n_features) float32, in one gather."""
    return torch.from_numpy(matrix[rows].toarray())


class PreparedCells(Dataset[CellBatch]):
    """Preprocessed cells in memory; indexing with an array of rows gives one minibatch.

    Parameters
    ----------
    matrix
        (n_cells, n_features) CSR float32 in [0, 1].
    domain
        (n_cells,) domain codes.
    """

    def __init__(self, matrix: sparse.csr_matrix, domain: NDArray[np.int64]) -> None:
        self.matrix = matrix
        self.domain = domain

    def __len__(self) -> int:
        return len(self.domain)

    def __getitem__(self, rows: NDArray[np.int64]) -> CellBatch:
        return CellBatch(dense_rows(self.matrix, rows), torch.from_numpy(self.domain[rows]), torch.from_numpy(rows))
