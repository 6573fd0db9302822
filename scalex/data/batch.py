"""The one value the model sees."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["CellBatch"]


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
