"""The arithmetic of preprocessing: pure functions of sparse rows, each row on its own."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.preprocess.kernels import select_features

__all__ = ["match", "normalize_total", "scale", "select", "without_zeros"]


def match(wanted: pd.Index, given: pd.Index) -> NDArray[np.int64]:
    """Position in `wanted` of each feature of `given`, (len(given),); -1 where it is not wanted."""
    return np.asarray(wanted.get_indexer(given), np.int64)


def select(rows: sparse.csr_matrix, position: NDArray[np.int64], n_features: int) -> sparse.csr_matrix:
    """Bring rows to another set of features, (n_cells, n_features); a feature they lack is 0.

    Parameters
    ----------
    rows
        (n_cells, len(position)).
    position
        The new position of each old feature, -1 to drop it.
    """
    parts = select_features(rows.data, rows.indices, rows.indptr, position.astype(np.int32))
    selected = sparse.csr_matrix(parts, shape=(rows.shape[0], n_features))
    kept = position[position >= 0]
    if rows.has_sorted_indices and (kept[1:] > kept[:-1]).all():
        selected.has_sorted_indices = True
    else:
        selected.sort_indices()
    return selected


def without_zeros(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """The same rows without stored zeros."""
    if (rows.data == 0).any():
        rows = rows.copy()
        rows.eliminate_zeros()
    return rows


def normalize_total(rows: sparse.csr_matrix, total: NDArray[np.float64], target: float) -> sparse.csr_matrix:
    """Values per `target` of each row's `total`, (n_cells,); a row whose total is 0 stays as it is."""
    factor = target / np.where(total > 0, total, target)
    data = rows.data * np.repeat(factor, np.diff(rows.indptr)).astype(np.float32)
    return sparse.csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape)


def scale(rows: sparse.csr_matrix, maximum: NDArray[np.float32], domain: NDArray[np.int64]) -> sparse.csr_matrix:
    """Divide each value by its feature's maximum and clip to 1.

    Parameters
    ----------
    maximum
        (n_features,) the same for all rows, or (n_domains, n_features) indexed by `domain`. A maximum of 0 counts as 1.
    domain
        (n_cells,) int64.
    """
    safe = np.where(maximum > 0, maximum, np.float32(1))
    divisor = safe[rows.indices] if maximum.ndim == 1 else safe[np.repeat(domain, np.diff(rows.indptr)), rows.indices]
    data = np.minimum(rows.data / divisor, np.float32(1))
    return sparse.csr_matrix((data, rows.indices, rows.indptr), shape=rows.shape)
