"""Sums over the cells of groups."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

__all__ = ["GroupSums", "combine_codes", "sum_groups"]


class GroupSums(NamedTuple):
    """Sums over the cells of groups.

    Attributes
    ----------
    total
        (n_groups, n_features) float64, sums of the values.
    n_expressing
        (n_groups, n_features) float64, numbers of cells with a value above 0.
    n_cells
        (n_groups,) int64, numbers of cells.
    """

    total: NDArray[np.float64]
    n_expressing: NDArray[np.float64]
    n_cells: NDArray[np.int64]

    def __add__(self, other: tuple[object, ...]) -> GroupSums:
        """Return the sums over the cells of both, of the same groups."""
        assert isinstance(other, GroupSums)
        return GroupSums(self.total + other.total, self.n_expressing + other.n_expressing, self.n_cells + other.n_cells)


def sum_groups(values: sparse.csr_matrix, code: NDArray[np.int64], n_groups: int) -> GroupSums:
    """Sum the rows of each group.

    Parameters
    ----------
    values
        (n_cells, n_features) CSR.
    code
        (n_cells,) group of each cell from 0 to `n_groups` - 1, or -1 for a cell of none.
    n_groups
        Number of groups.
    """
    member = np.flatnonzero(code >= 0)
    indicator = sparse.csr_matrix((np.ones(len(member)), (code[member], member)), shape=(n_groups, len(code)))
    expressing = sparse.csr_matrix(((values.data > 0).astype(np.float64), values.indices, values.indptr), shape=values.shape)
    total, n_expressing = (np.asarray((indicator @ one).todense()) for one in (values.astype(np.float64), expressing))
    return GroupSums(total, n_expressing, np.bincount(code[member], minlength=n_groups))


def combine_codes(columns: pd.DataFrame) -> tuple[NDArray[np.int64], pd.DataFrame]:
    """Return the code of each row's combination of values, (n_rows,) int64, and the combinations in their order.

    A row with a missing value has the code -1. Only combinations that occur are returned, ordered by the categories of each column.
    """
    known = columns.notna().all(axis=1).to_numpy()
    grouped = columns[known].groupby(list(columns.columns), observed=True, sort=True)
    code = np.full(len(columns), -1, np.int64)
    code[known] = grouped.ngroup().to_numpy()
    return code, grouped.size().index.to_frame(index=False)
