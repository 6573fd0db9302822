"""Checks of stored values."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scalex.cells import Cells
from scalex.preprocess.kernels import check_rows

__all__ = ["check_values", "count_fractional"]


def check_values(rows: sparse.csr_matrix, cells: Cells, first: int) -> int:
    """Check that all values are finite and not negative, and return the number of rows with fractional values.

    Parameters
    ----------
    rows
        (n_rows, n_features) as read from `cells`.
    first
        The position in `cells` of the first row.

    Raises
    ------
    ValueError
        If a value is invalid. The message names the first such cell and feature.
    """
    sound, n_fractional = check_rows(rows.data, rows.indptr)
    if sound:
        return int(n_fractional)
    bad = ~np.isfinite(rows.data) | (rows.data < 0)
    at = int(np.flatnonzero(bad)[0])
    row = first + int(np.searchsorted(rows.indptr, at, side="right")) - 1
    raise ValueError(
        f"{int(bad.sum())} values are negative, infinite or not a number; the first is {rows.data[at]} in cell "
        f"{cells.read_obs(slice(row, row + 1)).index[0]}, feature {cells.var.index[rows.indices[at]]}. Values must be finite and >= 0: "
        "use counts, or log-normalized values that are not centred with preprocess=none."
    )


def count_fractional(rows: sparse.csr_matrix) -> int:
    """Return the number of cells with fractional values."""
    return int(check_rows(rows.data, rows.indptr)[1])
