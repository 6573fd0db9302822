"""Conversion of a matrix that is stored by columns to rows, so that its rows can be read in runs."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse
from tqdm.auto import tqdm

from scalex.h5ad.block_writer import BlockWriter
from scalex.h5ad.matrix import StoredMatrix
from scalex.system.atomic_files import atomic_create, remove_unfinished
from scalex.system.processes import is_first, wait_for

__all__ = ["convert_to_rows"]

logger = logging.getLogger(__name__)

FORMAT = 1
# Values that are in memory at a time. Transposing them takes a few hundred MB.
BLOCK_VALUES = 1 << 23


def convert_to_rows(columns: StoredMatrix, folder: Path, *, block_values: int = BLOCK_VALUES) -> StoredMatrix:
    """Return the matrix stored by rows, from a file in `folder` that is written if it does not exist.

    The name of the file depends on the path, size and time of the source. The file is complete or absent, and is written again if it cannot
    be read. The first process of a launch writes it, and the others wait.

    Parameters
    ----------
    columns
        The CSC matrix.
    folder
        Folder of the file.
    block_values
        Approximate number of values in memory at a time.

    Raises
    ------
    OSError, ValueError
        If the source cannot be read or is damaged, or if the file cannot be written.
    """
    path, name = columns.file.path, columns.name
    key = f"{FORMAT}\n{columns.file.identity}\n{name}"
    target = folder / f"rows-{hashlib.sha256(key.encode()).hexdigest()[:20]}.h5ad"
    if not is_first():
        wait_for(target)
        return StoredMatrix(target, "X")
    remove_unfinished(folder)
    if target.exists():
        try:
            rows = StoredMatrix(target, "X")
        except (OSError, KeyError, ValueError) as error:
            logger.warning("%s cannot be read (%s) and is written again", target, error)
            target.unlink()
        else:
            logger.info("%s of %s is stored by columns: its rows are read from %s", name, path, target)
            return rows
    logger.info("%s of %s is stored by columns: its rows are written once to %s", name, path, target)
    with atomic_create(target) as unfinished, h5py.File(unfinished, "w") as file:
        _write_by_rows(columns, file, folder, block_values)
    return StoredMatrix(target, "X")


def _write_by_rows(columns: StoredMatrix, file: h5py.File, folder: Path, block_values: int) -> None:
    """Write the rows in two passes. The first transposes panels of columns, the second joins each run of rows from all panels."""
    n_features, n_cells = columns.shape
    values_N = np.zeros(n_cells, np.int64)
    # The scratch file has no name in the folder, so it vanishes even if the process is killed.
    with (
        TemporaryFile(dir=folder) as scratch,
        h5py.File(scratch, "w") as transposed,
        tqdm(total=2 * n_features, desc="Writing by rows", unit="feature", unit_scale=True, disable=None, leave=False) as bar,
    ):
        panels: list[tuple[h5py.Group, int]] = []
        for part in _split_rows(columns.count_values_per_row(), block_values):
            panel = columns.read(part).T.tocsr()
            group = transposed.create_group(str(len(panels)))
            for array in ("data", "indices", "indptr"):
                group[array] = getattr(panel, array)
            values_N += np.diff(panel.indptr)
            panels.append((group, panel.shape[1]))
            bar.update(panel.shape[1])
        writer = BlockWriter(file)
        var = pd.DataFrame(index=np.arange(n_features).astype(str))
        for part in _split_rows(values_N, block_values):
            matrix = sparse.hstack([_read_panel(*panel, part) for panel in panels], format="csr")
            writer.append(ad.AnnData(matrix, obs=pd.DataFrame(index=np.arange(part.start, part.stop).astype(str)), var=var))
            bar.update(n_features * (part.stop - part.start) / n_cells)


def _split_rows(values_R: NDArray[np.int64], block_values: int) -> Iterator[slice]:
    """Yield runs that cover all rows, each with about `block_values` values or a single row."""
    block_R = np.cumsum(values_R) // block_values
    first = np.append(0, np.flatnonzero(np.diff(block_R)) + 1)
    yield from map(slice, first.tolist(), [*first[1:].tolist(), len(values_R)])


def _read_panel(group: h5py.Group, n_columns: int, part: slice) -> sparse.csr_matrix:
    indptr = group["indptr"][part.start : part.stop + 1]
    stored = slice(indptr[0], indptr[-1])
    return sparse.csr_matrix((group["data"][stored], group["indices"][stored], indptr - indptr[0]), shape=(len(indptr) - 1, n_columns))
