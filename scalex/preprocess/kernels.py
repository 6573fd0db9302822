"""Loops over stored values, compiled: numpy needs ten passes and as many copies for what one pass does.

They let go of Python's lock, so that cells are preprocessed in one thread while another trains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["add_sums", "check_rows", "pack_rows", "row_totals"]

Values = NDArray[np.float32]
Whole = NDArray[Any]


@njit(nogil=True, cache=True)
def check_rows(data: Values, indptr: Whole) -> tuple[bool, int]:
    """Whether all values are finite and not negative, and the number of rows that hold other than whole numbers."""
    n_unsound, n_fractional = 0, 0
    for i in range(len(indptr) - 1):
        n = 0
        for k in range(indptr[i], indptr[i + 1]):
            # What is not a number is neither.
            n_unsound += not (data[k] >= 0 and data[k] < np.inf)
            n += data[k] != np.floor(data[k])
        n_fractional += n > 0
    return n_unsound == 0, n_fractional


@njit(nogil=True, cache=True)
def row_totals(data: Values, indices: Whole, indptr: Whole, counted: Values) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Sum of each row's values, and number of those above 0, over the features for which `counted` is 1 and not 0."""
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
    """Data, columns and row pointers of the values whose feature has a position, which becomes their column, per `target` of the total.

    The total is that of `row_totals`. With a target of 0, and in rows whose total is 0, values stay as they are.
    """
    n_rows = len(indptr) - 1
    pointers = np.zeros(n_rows + 1, np.int64)
    # Each value is written, and written over by the next where it is not wanted: faster than to look first.
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
    """Add up, for each group of rows and feature, number, sum, sum of squares and sum of logarithms of its values; find the largest.

    `sums` is (n_groups, n_features, 4), `largest` (n_groups, n_features); both are written to, row by row in the order of `rows`.
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
