"""Checks of stored values."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scalex.cells import Cells
from scalex.preprocess.kernels import check_rows

__all__ = ["check_values", "count_fractional", "look_normalized"]

# Logarithms of expression stay below this value, whatever their base and the total before.
MAX_LOG = 25.0
# Cells have the same total if the totals differ by at most this share.
SAME_TOTAL = 0.01


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


def look_normalized(rows: sparse.csr_matrix) -> bool:
    """Return whether values are logarithms of expression, or expression with the same total in each cell.

    Other fractional values are counts: estimated, or corrected for ambient RNA.
    """
    total = np.asarray(rows.sum(1)).ravel()
    total = total[total > 0]
    if len(total) > 1 and np.ptp(total) <= SAME_TOTAL * total.mean():
        return True
    return len(rows.data) > 0 and bool(rows.data.max() < MAX_LOG and np.mean(rows.data % 1 != 0) > 0.5)
