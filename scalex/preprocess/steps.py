"""The arithmetic of preprocessing: pure functions of sparse rows, each row on its own."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.preprocess.kernels import pack_rows

__all__ = ["match", "pack", "scale"]


def match(wanted: pd.Index, given: pd.Index) -> NDArray[np.int64]:
    """Return the position in `wanted` of each feature of `given`, (len(given),); -1 if it is not wanted."""
    return np.asarray(wanted.get_indexer(given), np.int64)


def pack(
    rows: sparse.csr_matrix,
    position: NDArray[np.int64],
    n_features: int,
    *,
    counted: NDArray[np.bool_] | None = None,
    target: float = 0.0,
) -> sparse.csr_matrix:
    """Convert rows to another set of features, (n_cells, n_features) float32 without stored zeros. Absent features are 0.

    Parameters
    ----------
    rows
        (n_cells, len(position)) float32.
    position
        New position of each old feature, -1 to drop it.
    n_features
        Number of new features.
    counted
        (len(position),) which of the old features make up a row's total; None: those that are not dropped.
    target
        Total of each row after scaling; 0: no scaling. A row whose total is 0 does not change.
    """
    mask = (position >= 0 if counted is None else counted).astype(np.float32)
    arrays = pack_rows(rows.data.astype(np.float32, copy=False), rows.indices, rows.indptr, position.astype(np.int32), mask, float(target))
    packed = sparse.csr_matrix(arrays, shape=(rows.shape[0], n_features))
    wanted = position[position >= 0]
    if rows.has_sorted_indices and (wanted[1:] > wanted[:-1]).all():
        packed.has_sorted_indices = True
    else:
        packed.sort_indices()
    return packed


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
