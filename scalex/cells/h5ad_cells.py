"""Matrix and annotation of the cells of one .h5ad file, read from it piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells.h5ad_obs import StoredTable
from scalex.cells.joined_obs import JoinedColumns
from scalex.cells.memory_table import MemoryTable
from scalex.cells.protocol import Table
from scalex.features.names import make_unique
from scalex.h5ad.csc_to_csr import stored_by_rows
from scalex.h5ad.matrix import StoredMatrix
from scalex.h5ad.open_file import StoredFile

__all__ = ["StoredCells", "not_backed_because"]


class StoredCells:
    """Matrix and annotation of the cells of one file, which stay there.

    Parameters
    ----------
    path
        The .h5ad file, of which `not_backed_because` finds nothing to say.
    matrix
        Where in it the matrix is: "X" or "layers/<name>".
    source
        Whose cells they are, for messages.
    cache
        Folder in which a matrix that is stored by columns is kept by rows.
    name_features
        Gives the table of features other names; see `rename_by_column`.
    opened
        The file as an AnnData that was opened with ``backed=``: its annotation counts, which may have been changed since.

    Attributes
    ----------
    var : DataFrame
        Annotation of the features, with unique names.
    table : Table
        Annotation of the cells.
    n_cells : int
        Number of cells.

    Raises
    ------
    ValueError
        The parts of the file do not fit together.
    """

    def __init__(
        self,
        path: str | Path,
        matrix: str,
        source: str,
        cache: Path | None = None,
        name_features: Callable[[pd.DataFrame], pd.DataFrame] | None = None,
        opened: ad.AnnData | None = None,
    ) -> None:
        file = StoredFile(path)
        by_columns = file.open()[matrix].attrs.get("encoding-type") == "csc_matrix"
        assert cache is not None or not by_columns, "not_backed_because says so"
        self.matrix = stored_by_rows(file.path, matrix, cache) if cache is not None and by_columns else StoredMatrix(path, matrix)
        with file.reading("var"):
            var = ad.io.read_elem(file.open()["var"]) if opened is None else opened.var
        self.var = make_unique(var if name_features is None else name_features(var), "feature", source)
        self.table: Table = StoredTable(file, source) if opened is None else MemoryTable(opened.obs, source)
        self.n_cells = self.table.n_rows
        if self.matrix.shape != (self.n_cells, len(self.var)):
            raise ValueError(
                f"{path}: {matrix} is {self.matrix.shape[0]} x {self.matrix.shape[1]}, but obs has {self.n_cells} rows and var has "
                f"{len(self.var)}. The file is damaged: write it again."
            )

    @property
    def columns(self) -> list[str]:
        """Names of the columns of the annotation."""
        return self.table.columns

    def column(self, name: str) -> pd.Series:
        """A column of all cells, without their names; text as categories."""
        return JoinedColumns([self.table]).column(name)

    def names(self, rows: slice) -> pd.Index:
        """Names of a run of cells."""
        return self.table.names(rows)

    def annotation(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        return self.table.rows(rows)

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """See `StoredMatrix.read`."""
        return self.matrix.read(rows)


def not_backed_because(path: Path, matrix: str, cache: Path | None = None) -> str | None:
    """Why the cells of a file cannot be read piece by piece; None if they can, with what is kept in a folder for it, if there is one."""
    if path.suffix != ".h5ad":
        return "only .h5ad files are read piece by piece"
    try:
        with h5py.File(path) as file:
            if matrix not in file:
                return f"{matrix} is not in it"
            stored, obs = file[matrix], file["obs"]
            if isinstance(stored, h5py.Dataset):
                if stored.shape is None or len(stored.shape) != 2:
                    return f"{matrix} is not a table of cells and features"
            elif stored.attrs.get("encoding-type") == "csc_matrix":
                if cache is None:
                    return f"{matrix} is stored by columns; name a folder as cache, and it is written there by rows, once"
            elif stored.attrs.get("encoding-type") != "csr_matrix":
                return f"{matrix} is stored as {stored.attrs.get('encoding-type', 'an old format')}, not by rows"
            if obs.attrs.get("encoding-type") != "dataframe" or "__categories" in obs:
                return "obs is in an old format"
            parts = [] if isinstance(stored, h5py.Dataset) else [f"{matrix}/{part}" for part in ("data", "indices", "indptr")]
            if any(part not in file for part in (*parts, f"var/{file['var'].attrs['_index']}")):
                return "a part of it is missing"
            names = obs[obs.attrs["_index"]]
            if not isinstance(names, h5py.Dataset) or h5py.check_string_dtype(names.dtype) is None:
                return "the names of its cells are not stored as text"
    except (OSError, KeyError):
        return "it is not an .h5ad file of a known format"
    return None
