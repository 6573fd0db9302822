"""Cells of several sources, joined on their features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.joined_obs import JoinedTable, find_rows
from scalex.cells.protocol import Matrix, Store
from scalex.features.joining import check_joinable, harmonize_names, join_features, rename_features
from scalex.features.peaks import MatchPeaks

__all__ = ["JoinedCells"]

logger = logging.getLogger(__name__)

# Cells whose names may tell that a source is turned.
LOOKED_AT = 1000


class JoinedCells:
    """Cells of several sources, one source after the other. See `Store` for the attributes.

    Parameters
    ----------
    sources
        What is joined, in memory or in files.
    names
        Of the sources, one each.
    join, source_key, match_peaks
        As in `AnnDataSource`.

    Raises
    ------
    ValueError
        The sources share no feature, and the join is "inner".
    """

    def __init__(
        self,
        sources: Sequence[Store],
        names: Sequence[str],
        *,
        join: Literal["inner", "outer"],
        source_key: str,
        match_peaks: MatchPeaks = "exact",
    ) -> None:
        renamed = harmonize_names([source.var.index for source in sources], names, match_peaks)
        features = [rename_features(source.var, own) for source, own in zip(sources, renamed, strict=True)]
        some_cells = [list(source.table.names(slice(0, LOOKED_AT))) for source in sources]
        columns = [source.table.columns for source in sources]
        check_joinable(features, columns, names, join=join, source_key=source_key, cells=some_cells)
        self.var = join_features(features, names, join)
        self.in_memory = all(source.in_memory for source in sources)
        self.table = JoinedTable([source.table for source in sources], names, source_key)
        # Place of each feature of a source among the joined ones, -1 where it is not there; None where they are the same.
        place = [None if own.equals(self.var.index) else self.var.index.get_indexer(own).astype(np.int32) for own in renamed]
        self.matrix = _JoinedMatrix([source.matrix for source in sources], place, (self.table.n_rows, len(self.var)))
        logger.info("Joined %d sources (%s): %s cells x %s features", len(names), join, *(f"{n:,}" for n in self.matrix.shape))


@dataclass(frozen=True)
class _JoinedMatrix:
    matrices: Sequence[Matrix]
    place: Sequence[NDArray[np.int32] | None]
    shape: tuple[int, int]

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        parts = []
        for i, own in find_rows(rows, np.cumsum([matrix.shape[0] for matrix in self.matrices])):
            part, place = self.matrices[i].read(own), self.place[i]
            parts.append(part if place is None else _place_columns(part, place, self.shape[1]))
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")


def _place_columns(values: sparse.csr_matrix, place: NDArray[np.int32], n_features: int) -> sparse.csr_matrix:
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
