"""Loops over stored values, compiled: numpy needs ten passes and as many copies for what one pass does.

They let go of Python's lock, so that cells are preprocessed in one thread while another trains.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

__all__ = ["add_sums", "count_fractional_rows", "select_features"]

Values = NDArray[np.float32]
Whole = NDArray[Any]


@njit(nogil=True, cache=True)
def select_features(data: Values, indices: Whole, indptr: Whole, position: NDArray[np.int32]) -> tuple[Values, Whole, Whole]:
    """Data, columns and row pointers of the values whose feature has a position, which becomes their column."""
    n_rows = len(indptr) - 1
    pointers = np.zeros(n_rows + 1, np.int64)
    for i in range(n_rows):
        n = 0
        for k in range(indptr[i], indptr[i + 1]):
            n += position[indices[k]] >= 0
        pointers[i + 1] = pointers[i] + n
    values = np.empty(pointers[n_rows], data.dtype)
    columns = np.empty(pointers[n_rows], np.int32)
    at = 0
    for k in range(indptr[0], indptr[n_rows]):
        column = position[indices[k]]
        if column >= 0:
            values[at] = data[k]
            columns[at] = column
            at += 1
    return values, columns, pointers


@njit(nogil=True, cache=True)
def add_sums(
    data: Values, logs: Values, indices: Whole, indptr: Whole, group: NDArray[np.int64], sums: NDArray[np.float64], largest: Values
) -> None:
    """Add up, for each group of rows and feature, number, sum, sum of squares and sum of logarithms of its values; find the largest.

    `sums` is (n_groups, n_features, 4), `largest` (n_groups, n_features); both are written to.
    """
    for i in range(len(indptr) - 1):
        d = group[i]
        for k in range(indptr[i], indptr[i + 1]):
            j = indices[k]
            value = np.float64(data[k])
            sums[d, j, 0] += 1
            sums[d, j, 1] += value
            sums[d, j, 2] += value * value
            sums[d, j, 3] += np.float64(logs[k])
            if data[k] > largest[d, j]:
                largest[d, j] = data[k]


@njit(nogil=True, cache=True)
def count_fractional_rows(data: Values, indptr: Whole) -> int:
    """Number of rows that hold values other than whole numbers."""
    found = 0
    for i in range(len(indptr) - 1):
        for k in range(indptr[i], indptr[i + 1]):
            if data[k] != np.floor(data[k]):
                found += 1
                break
    return found
