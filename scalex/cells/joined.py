"""Cells of several sources, joined on their features."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.joined_obs import JoinedTable, split_by_source
from scalex.cells.protocol import Matrix, Store
from scalex.features.joining import check_joinable, harmonize_names, join_features, rename_features
from scalex.features.peaks import MatchPeaks

__all__ = ["JoinedCells"]

logger = logging.getLogger(__name__)

# Cells of each source whose names are compared with the features, to detect a transposed source.
N_CELL_NAMES = 1000


class JoinedCells:
    """Cells of several sources, one source after the other. See `Store` for the attributes.

    Parameters
    ----------
    sources
        The sources, in memory or in files.
    names
        Name of each source.
    join, source_key, match_peaks
        As in `AnnDataSource`.

    Raises
    ------
    ValueError
        If the sources share no feature and the join is "inner", or if they share few features for a reason that the message gives.
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
        some_cells = [list(source.table.read_names(slice(0, N_CELL_NAMES))) for source in sources]
        columns = [source.table.columns for source in sources]
        check_joinable(features, columns, names, join=join, source_key=source_key, cells=some_cells)
        self.var = join_features(features, names, join)
        self.in_memory = all(source.in_memory for source in sources)
        self.table = JoinedTable([source.table for source in sources], names, source_key)
        # Position of each feature of a source among the joined features, -1 if absent there; None if all features are the same.
        positions = [None if own.equals(self.var.index) else self.var.index.get_indexer(own).astype(np.int32) for own in renamed]
        self.matrix = _JoinedMatrix([source.matrix for source in sources], positions, (self.table.n_rows, len(self.var)))
        logger.info("Joined %d sources (%s): %s cells x %s features", len(names), join, *(f"{n:,}" for n in self.matrix.shape))


@dataclass(frozen=True)
class _JoinedMatrix:
    matrices: Sequence[Matrix]
    positions: Sequence[NDArray[np.int32] | None]
    shape: tuple[int, int]

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        parts = []
        for i, own in split_by_source(rows, np.cumsum([matrix.shape[0] for matrix in self.matrices])):
            part, position = self.matrices[i].read(own), self.positions[i]
            parts.append(part if position is None else _move_columns(part, position, self.shape[1]))
        return parts[0] if len(parts) == 1 else sparse.vstack(parts, format="csr")


def _move_columns(values: sparse.csr_matrix, position: NDArray[np.int32], n_features: int) -> sparse.csr_matrix:
    """Move columns to other positions and drop those at -1. Columns at the same position are added."""
    columns = position[values.indices]
    kept = columns >= 0
    indptr = np.append(0, np.cumsum(kept))[values.indptr]
    matrix = sparse.csr_matrix((values.data[kept], columns[kept], indptr), shape=(values.shape[0], n_features))
    if (np.diff(position[position >= 0]) > 0).all():
        return matrix
    # Transposing twice sorts the columns in half the time of sorting them.
    matrix = matrix.tocsc().tocsr()
    matrix.sum_duplicates()
    return matrix
