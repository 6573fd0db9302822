"""What the model sees: some cells, to learn from or to embed."""

from __future__ import annotations

from typing import Literal, NamedTuple

from scipy import sparse
from torch import Tensor

from scalex.nn.sparse_rows import SparseRows

__all__ = ["CellBatch", "Sampling"]

# Which cells share a minibatch; see `scalex.data.sampling.minibatches`.
Sampling = Literal["shuffle", "domain", "balanced"]


class CellBatch(NamedTuple):
    """Some cells: a minibatch of training, or a chunk to embed.

    Attributes
    ----------
    rows
        (n_cells, n_features) float32 in [0, 1], the model's inputs. They stay sparse until they are where the model is.
    domain_C
        (n_cells,) int64, the code of the cell's domain.
    row_C
        (n_cells,) int64, the cell's row among all cells.
    values
        (n_cells, n_features of the source) float32 CSR, what the inputs were made from; None where they are not needed any more.
    """

    rows: SparseRows
    domain_C: Tensor
    row_C: Tensor
    values: sparse.csr_matrix | None = None
