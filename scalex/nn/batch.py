"""What the model sees: minibatches to train on, chunks to embed."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from torch import Tensor

__all__ = ["CellBatch", "Chunk", "Sampling"]

# Which cells share a minibatch; see `scalex.data.sampling.minibatches`.
Sampling = Literal["shuffle", "domain", "balanced"]


class CellBatch(NamedTuple):
    """A minibatch of cells.

    Attributes
    ----------
    x_CG
        (n_cells, n_features) float32 in [0, 1].
    domain_C
        (n_cells,) int64, the code of the cell's domain among those of the data module.
    row_C
        (n_cells,) int64, the cell's row among the cells of the data module.
    """

    x_CG: Tensor
    domain_C: Tensor
    row_C: Tensor


class Chunk(NamedTuple):
    """A run of cells to embed.

    Attributes
    ----------
    inputs
        (n_cells, n_features) float32 CSR in [0, 1]. Sparse, since the first layer takes a third of the time so.
    domain_C, row_C
        As in `CellBatch`.
    values
        (n_cells, n_features of the source) float32 CSR, what the inputs were made from; None where they were ready.
    lacking
        (n_features,) float32, to be added to each row of the inputs; None: nothing. See `RowTransform`.
    """

    inputs: sparse.csr_matrix
    domain_C: Tensor
    row_C: Tensor
    values: sparse.csr_matrix | None = None
    lacking: NDArray[np.float32] | None = None
