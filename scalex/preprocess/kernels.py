"""Compiled loops over stored values. One pass replaces ten passes and copies in numpy.

They release Python's global lock, so that one thread preprocesses cells while another trains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["add_sums", "check_rows", "pack_rows", "sum_rows"]

Values = NDArray[np.float32]
Whole = NDArray[Any]


@njit(nogil=True, cache=True)
def check_rows(data: Values, indptr: Whole) -> tuple[bool, int]:
    """Return whether all values are finite and not negative, and the number of rows with fractional values."""
    n_unsound, n_fractional = 0, 0
    for i in range(len(indptr) - 1):
        n = 0
        for k in range(indptr[i], indptr[i + 1]):
            # NaN fails both comparisons.
            n_unsound += not (data[k] >= 0 and data[k] < np.inf)
            n += data[k] != np.floor(data[k])
        n_fractional += n > 0
    return n_unsound == 0, n_fractional


@njit(nogil=True, cache=True)
def sum_rows(data: Values, indices: Whole, indptr: Whole, counted: Values) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the sum of each row's values and the number above 0, over the features for which `counted` is 1."""
    n_rows = len(indptr) - 1
    totals, n_detected = np.zeros(n_rows), np.zeros(n_rows, np.int64)
    for i in range(n_rows):
        total, n = 0.0, 0
        for k in range(indptr[i], indptr[i + 1]):
            value, one = data[k], counted[indices[k]]
            total += value * one
            n += (value > 0) & (one > 0)
        totals[i], n_detected[i] = total, n
    return totals, n_detected


@njit(nogil=True, cache=True)
def pack_rows(
    data: Values, indices: Whole, indptr: Whole, position: NDArray[np.int32], counted: Values, target: float
) -> tuple[Values, Whole, Whole]:
    """Return data, columns and row pointers of the values whose feature has a position, which becomes their column.

    Each row is scaled so that its total, as in `sum_rows`, is `target`. With a target of 0, and in rows whose total is 0, values do not
    change.
    """
    n_rows = len(indptr) - 1
    pointers = np.zeros(n_rows + 1, np.int64)
    # Every value is written, and the next one overwrites it if it is not wanted. This is faster than a test.
    values, columns = np.empty(len(data) + 1, np.float32), np.empty(len(data) + 1, np.int32)
    at = 0
    for i in range(n_rows):
        total = 0.0
        for k in range(indptr[i], indptr[i + 1]):
            value, column = data[k], position[indices[k]]
            total += value * counted[indices[k]]
            values[at], columns[at] = value, column
            at += (column >= 0) & (value > 0)
        pointers[i + 1] = at
        if target > 0 and total > 0:
            factor = np.float32(target / total)
            for k in range(pointers[i], at):
                values[k] *= factor
    return values[:at].copy(), columns[:at].copy(), pointers


@njit(nogil=True, cache=True)
def add_sums(
    values: Values,
    logs: Values,
    indices: Whole,
    indptr: Whole,
    rows: NDArray[np.int64],
    group: NDArray[np.int64],
    sums: NDArray[np.float64],
    largest: Values,
) -> None:
    """Add the number, sum, sum of squares and sum of logarithms of the values to `sums`, and update their maximum in `largest`.

    `sums` is (n_groups, n_features, 4) and `largest` is (n_groups, n_features). Rows are added in the order of `rows`.
    """
    for i in rows:
        d = group[i]
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            value = np.float64(values[k])
            sums[d, j, 0] += value > 0
            sums[d, j, 1] += value
            sums[d, j, 2] += value * value
            sums[d, j, 3] += np.float64(logs[k])
            if values[k] > largest[d, j]:
                largest[d, j] = values[k]
