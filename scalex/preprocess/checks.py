"""Checks of stored values."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scalex.cells import Cells
from scalex.preprocess.kernels import check_rows

__all__ = ["check_values", "count_fractional"]


def check_values(rows: sparse.csr_matrix, cells: Cells, first: int) -> int:
    """See that all values of a run of rows are finite and not negative; the number of rows that hold other than whole numbers.

    Parameters
    ----------
    rows
        (n_rows, n_features) as read from `cells`.
    first
        The row of `cells` with which the run begins.

    Raises
    ------
    ValueError
        Naming the first cell and feature where they are not.
    """
    sound, n_fractional = check_rows(rows.data, rows.indptr)
    if sound:
        return int(n_fractional)
    bad = ~np.isfinite(rows.data) | (rows.data < 0)
    at = int(np.flatnonzero(bad)[0])
    row = first + int(np.searchsorted(rows.indptr, at, side="right")) - 1
    raise ValueError(
        f"{int(bad.sum())} values are negative, infinite or not a number; the first is {rows.data[at]} in cell "
        f"{cells.annotation(slice(row, row + 1)).index[0]}, feature {cells.var.index[rows.indices[at]]}. Values must be finite and >= 0: "
        "give counts, or log-normalized values with preprocess=none (not centred ones)."
    )


def count_fractional(rows: sparse.csr_matrix) -> int:
    """Number of cells that hold values other than whole numbers."""
    return int(check_rows(rows.data, rows.indptr)[1])
