"""The cells of a minibatch or chunk, as the model gets them."""

from __future__ import annotations

from typing import Literal, NamedTuple

from scipy import sparse
from torch import Tensor

from scalex.nn.collectives import MinibatchCounts
from scalex.nn.sparse_rows import SparseRows

__all__ = ["CellBatch", "Sampling"]

# Which cells share a minibatch; see `scalex.data.sampling.minibatches`.
Sampling = Literal["shuffle", "domain", "balanced"]


class CellBatch(NamedTuple):
    """Cells of a minibatch to train on, or of a chunk to embed.

    Attributes
    ----------
    rows
        (n_cells, n_features) float32 inputs in [0, 1]. They become dense on the model's device.
    domain_C
        (n_cells,) int64, the code of the cell's domain.
    row_C
        (n_cells,) int64, the cell's row among all cells.
    values
        (n_cells, n_features of the source) float32 CSR, the expression that the inputs were computed from; None where it is not needed.
    counts
        Numbers of cells of the minibatch by domain; None where they are not known.
    """

    rows: SparseRows
    domain_C: Tensor
    row_C: Tensor
    values: sparse.csr_matrix | None = None
    counts: MinibatchCounts | None = None
