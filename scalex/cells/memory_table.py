"""The annotation of cells that is in memory, as that of a file is read."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.names import make_unique

__all__ = ["MemoryTable"]


class MemoryTable:
    """The table of cells of an AnnData, with unique names; it is read as `scalex.cells.h5ad_obs.StoredTable`.

    Parameters
    ----------
    obs
        The table.
    source
        Whose cells they are, for messages.

    Attributes
    ----------
    columns : list of str
        Names of the columns.
    n_rows : int
        Number of cells.
    """

    def __init__(self, obs: pd.DataFrame, source: str) -> None:
        self._obs = make_unique(obs, "cell", source)
        self.columns = [str(name) for name in self._obs.columns]
        self.n_rows = len(self._obs)

    def rows(self, rows: slice) -> pd.DataFrame:
        """A run of rows, with all columns."""
        return self._obs.iloc[rows].copy()

    def names(self, rows: slice) -> pd.Index:
        """Names of a run of cells."""
        return self._obs.index[rows]

    def name_hashes(self) -> NDArray[np.uint64]:
        """(n_rows,) a number for each name, which no other name has, as good as certainly."""
        hashes: NDArray[np.uint64] = pd.util.hash_array(self._obs.index.to_numpy(object), categorize=False)
        return hashes

    def column(self, name: str) -> Iterator[pd.Series]:
        """A column, without names, in one piece."""
        yield self._obs[name].reset_index(drop=True)
