"""Cells of several .h5ad files, joined on their features, that stay in the files."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.h5ad_cells import StoredCells
from scalex.cells.joined_obs import JoinedColumns
from scalex.features.joining import check_joinable, harmonize_names, join_features, rename_features
from scalex.features.peaks import MatchPeaks

__all__ = ["JoinedCells"]

logger = logging.getLogger(__name__)

# Cells whose names may tell that a source is turned.
LOOKED_AT = 1000


class JoinedCells:
    """Cells of several files, one file after the other; the results are those of the join in memory.

    Parameters
    ----------
    sources
        The files.
    names
        Of the sources, one each.
    join, source_key, match_peaks
        As in `AnnDataSource`.

    Attributes
    ----------
    var : DataFrame
        Annotation of the joined features.
    n_cells : int
        Number of cells.

    Raises
    ------
    ValueError
        The sources share no feature, and the join is "inner".
    """

    def __init__(
        self,
        sources: Sequence[StoredCells],
        names: Sequence[str],
        *,
        join: Literal["inner", "outer"],
        source_key: str,
        match_peaks: MatchPeaks = "exact",
    ) -> None:
        renamed = harmonize_names([source.var.index for source in sources], names, match_peaks)
        features = [rename_features(source.var, own) for source, own in zip(sources, renamed, strict=True)]
        some_cells = [list(source.names(slice(0, LOOKED_AT))) for source in sources]
        columns = [source.columns for source in sources]
        check_joinable(features, columns, names, join=join, source_key=source_key, cells=some_cells)
        self.var = join_features(features, names, join)
        self._sources, self._names, self._source_key = sources, list(names), source_key
        # Place of each feature of a source among the joined ones, -1 where it is not there; None where they are the same.
        self._place = [None if own.equals(self.var.index) else self.var.index.get_indexer(own).astype(np.int32) for own in renamed]
        self._columns = JoinedColumns([source.table for source in sources])
        # Where each source begins and ends among all cells.
        self._end = np.cumsum([source.n_cells for source in sources]).tolist()
        self._start = [0, *self._end[:-1]]
        self.n_cells = int(self._end[-1])
        hashes = np.concatenate([source.table.name_hashes() for source in sources])
        self._names_are_shared = len(np.unique(hashes)) < self.n_cells
        logger.info("Joined %d sources (%s): %s cells x %s features", len(names), join, f"{self.n_cells:,}", f"{len(self.var):,}")

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the annotation."""
        return list(dict.fromkeys([*self._columns.names, self._source_key]))

    def column(self, name: str) -> pd.Series:
        """A column of all cells, without their names; text as categories."""
        return pd.Series(self._source(slice(0, self.n_cells))) if name == self._source_key else self._columns.column(name)

    def names(self, rows: slice) -> pd.Index:
        """Names of a run of cells, with the source's name added if any name occurs in two sources."""
        parts = [self._with_source(i, self._sources[i].names(own)) for i, own in self._by_source(rows)]
        return parts[0].append(parts[1:])

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells, with the columns, types and categories of all."""
        own_columns = [name for name in self._columns.names if name != self._source_key]
        parts = []
        for i, own in self._by_source(rows):
            part = self._columns.conform(self._sources[i].annotation(own), own_columns)
            part.index = self._with_source(i, part.index)
            parts.append(part)
        table = parts[0] if len(parts) == 1 else pd.concat(parts)
        table[self._source_key] = self._source(rows)
        return table[self.columns]

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Stored values of `rows`, which ascend, in the order of the joined features; see `StoredMatrix.read`."""
        parts = []
        for i, own in self._by_source(rows):
            part, place = self._sources[i].read(own), self._place[i]
            parts.append(part if place is None else _placed(part, place, len(self.var)))
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")

    def _by_source(self, rows: slice | NDArray[np.int64]) -> list[tuple[int, Any]]:
        """The sources that the rows are of, at least one, and the rows counted within each."""
        if isinstance(rows, slice):
            first, stop, _ = rows.indices(self.n_cells)
            runs = [slice(max(first - start, 0), max(min(stop, end) - start, 0)) for start, end in zip(self._start, self._end, strict=True)]
            return [(i, run) for i, run in enumerate(runs) if run.start < run.stop] or [(0, slice(0, 0))]
        at = np.searchsorted(rows, [*self._start, self.n_cells])
        return [(i, rows[at[i] : at[i + 1]] - self._start[i]) for i in np.flatnonzero(np.diff(at)).tolist()] or [(0, rows)]

    def _source(self, rows: slice) -> pd.Categorical:
        first, stop, _ = rows.indices(self.n_cells)
        codes = np.searchsorted(self._end, np.arange(first, stop), side="right")
        return pd.Categorical.from_codes(codes, categories=self._names)

    def _with_source(self, i: int, names: pd.Index) -> pd.Index:
        return names.rename(None) + (f"-{self._names[i]}" if self._names_are_shared else "")


def _placed(values: sparse.csr_matrix, place: NDArray[np.int32], n_features: int) -> sparse.csr_matrix:
    """The values with their columns at other places; those that come to the same one are added."""
    columns = place[values.indices]
    there = columns >= 0
    indptr = np.append(0, np.cumsum(there))[values.indptr]
    matrix = sparse.csr_matrix((values.data[there], columns[there], indptr), shape=(values.shape[0], n_features))
    if (np.diff(place[place >= 0]) > 0).all():
        return matrix
    # Columns come in order by transposing twice, in half the time that sorting them takes.
    matrix = matrix.tocsc().tocsr()
    matrix.sum_duplicates()
    return matrix
