"""A matrix that is stored by columns, written once by rows, since only rows can be read a few at a time."""

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
from scalex.system.atomic_files import atomic_create
from scalex.system.processes import is_first, wait_for

__all__ = ["convert_to_rows"]

logger = logging.getLogger(__name__)

FORMAT = 1
# Values that are in memory at a time: some hundred MB while they are turned.
BLOCK_VALUES = 1 << 23


def convert_to_rows(columns: StoredMatrix, folder: Path, *, block_values: int = BLOCK_VALUES) -> StoredMatrix:
    """The same matrix by rows, in a file of `folder` that is written if it is not there yet.

    The file is called after the source's path, size and time. It is there whole or not at all; one that cannot be read is made again.
    Of several processes that train together the first writes it.

    Parameters
    ----------
    columns
        A CSC matrix.
    folder
        Where the file goes.
    block_values
        About so many values are in memory at a time.

    Raises
    ------
    OSError, ValueError
        The source cannot be read, or is damaged; or the file cannot be written.
    """
    path, name = columns.file.path, columns.name
    made_of = f"{FORMAT}\n{columns.file.identity}\n{name}"
    target = folder / f"rows-{hashlib.sha256(made_of.encode()).hexdigest()[:20]}.h5ad"
    if not is_first():
        wait_for(target)
        return StoredMatrix(target, "X")
    if target.exists():
        try:
            found = StoredMatrix(target, "X")
        except (OSError, KeyError, ValueError) as error:
            logger.warning("%s cannot be read (%s): it is written again.", target, error)
            target.unlink()
        else:
            logger.info("%s of %s is stored by columns: its rows are read from %s", name, path, target)
            return found
    logger.info("%s of %s is stored by columns: it is written by rows, once, to %s", name, path, target)
    with atomic_create(target) as unfinished, h5py.File(unfinished, "w") as file:
        _write_by_rows(columns, file, folder, block_values)
    return StoredMatrix(target, "X")


def _write_by_rows(columns: StoredMatrix, file: h5py.File, folder: Path, block_values: int) -> None:
    """In two passes: panels of columns are turned one by one; then each run of rows is put together from all panels."""
    n_features, n_cells = columns.shape
    values_N = np.zeros(n_cells, np.int64)
    # Has no name in the folder, so that nothing is left of it however the process ends.
    with (
        TemporaryFile(dir=folder) as scratch,
        h5py.File(scratch, "w") as turned,
        tqdm(total=2 * n_features, desc="Writing by rows", unit="feature", unit_scale=True, disable=None, leave=False) as bar,
    ):
        panels: list[tuple[h5py.Group, int]] = []
        for part in _parts(columns.values_per_row(), block_values):
            panel = columns.read(part).T.tocsr()
            group = turned.create_group(str(len(panels)))
            for what in ("data", "indices", "indptr"):
                group[what] = getattr(panel, what)
            values_N += np.diff(panel.indptr)
            panels.append((group, panel.shape[1]))
            bar.update(panel.shape[1])
        writer = BlockWriter(file)
        var = pd.DataFrame(index=np.arange(n_features).astype(str))
        for part in _parts(values_N, block_values):
            matrix = sparse.hstack([_rows(*panel, part) for panel in panels], format="csr")
            writer.append(ad.AnnData(matrix, obs=pd.DataFrame(index=np.arange(part.start, part.stop).astype(str)), var=var))
            bar.update(n_features * (part.stop - part.start) / n_cells)


def _parts(values_R: NDArray[np.int64], most: int) -> Iterator[slice]:
    """Runs that cover all, each of about `most` values or of one member."""
    block_R = np.cumsum(values_R) // most
    first = np.append(0, np.flatnonzero(np.diff(block_R)) + 1)
    yield from map(slice, first.tolist(), [*first[1:].tolist(), len(values_R)])


def _rows(group: h5py.Group, n_columns: int, part: slice) -> sparse.csr_matrix:
    indptr = group["indptr"][part.start : part.stop + 1]
    stored = slice(indptr[0], indptr[-1])
    return sparse.csr_matrix((group["data"][stored], group["indices"][stored], indptr - indptr[0]), shape=(len(indptr) - 1, n_columns))
