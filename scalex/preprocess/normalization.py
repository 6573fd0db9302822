"""Normalization of cells: pure functions of sparse rows, each row on its own."""

from __future__ import annotations

from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["Normalization", "to_binary", "check_normalization", "compute_idf", "compute_row_factors"]

# "none": values stay as they are. "total": log(1 + t x / sum of x). "tfidf": log(1 + t f x / sum of x) with a factor f of the feature.
# "clr": log(1 + x / g), with the geometric mean g of 1 + x.
Normalization: TypeAlias = Literal["none", "total", "tfidf", "clr"]


def check_normalization(given: str, allowed: tuple[Normalization, ...] = get_args(Normalization)) -> None:
    """Check that a recipe allows a normalization.

    Raises
    ------
    ValueError
        If it does not.
    """
    if given not in allowed:
        raise ValueError(f"normalization={given!r}: allowed are {', '.join(allowed)}.")


def compute_row_factors(
    rows: sparse.csr_matrix,
    counted: NDArray[np.bool_],
    normalization: Normalization,
    *,
    target: float = 0.0,
    totals: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """Return the factor of each row, (n_cells,), by which its values are multiplied before log1p.

    Parameters
    ----------
    rows
        (n_cells, n_features) values >= 0.
    counted
        (n_features,) the features that make up a cell's total.
    normalization
        See `Normalization`.
    target, totals
        For "total" and "tfidf": the common total, and each cell's total over the counted features, (n_cells,).

    References
    ----------
    "clr", as for surface proteins, with 1 added to each count: Stoeckius et al., Nature Methods 14:865 (2017).
    """
    if normalization == "none":
        return np.ones(rows.shape[0], np.float32)
    if normalization == "clr":
        logs = sparse.csr_matrix((np.log1p(rows.data), rows.indices, rows.indptr), shape=rows.shape) @ counted.astype(np.float64)
        return np.asarray(np.exp(-logs / max(int(counted.sum()), 1)), np.float32)
    assert totals is not None
    return (target / np.where(totals > 0, totals, target)).astype(np.float32)


def to_binary(rows: sparse.csr_matrix) -> sparse.csr_matrix:
    """Replace each value above 0 by 1, (n_cells, n_features) float32."""
    return sparse.csr_matrix(((rows.data > 0).astype(np.float32), rows.indices, rows.indptr), shape=rows.shape)


def compute_idf(n_detected: NDArray[np.int64], n_cells: int) -> NDArray[np.float32]:
    """Return the inverse document frequency, (n_features,): the ratio of all cells to the cells in which the feature is detected.

    References
    ----------
    Stuart et al., Nature Methods 18:1333 (2021): log(1 + term frequency x inverse document frequency x 10,000).
    """
    return (n_cells / np.maximum(n_detected, 1)).astype(np.float32)
