"""Matrix and annotation of the cells of one AnnData in a file, read from it in runs of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py

from scalex.cells.file_obs import FileTable
from scalex.cells.in_memory import MemoryTable
from scalex.cells.one_source import OneSource
from scalex.cells.protocol import Matrix
from scalex.h5ad.csc_to_csr import convert_to_rows
from scalex.h5ad.matrix import AnnDataFile, StoredMatrix

__all__ = ["NotInRunsError", "file_store"]


class NotInRunsError(Exception):
    """Why cells cannot be read in runs of rows, and have to be read into memory."""


def file_store(
    open_file: Callable[[], AnnDataFile], layer: str, source: str, cache: Path | None = None, annotation: ad.AnnData | None = None
) -> OneSource:
    """The cells of a file, which stay there.

    Parameters
    ----------
    open_file
        Opens it.
    layer
        "X", or the name of a layer.
    source
        Whose cells they are, for messages.
    cache
        Folder in which a matrix that is stored by columns is kept by rows.
    annotation
        An object with obs and var that are used instead of the file's.

    Raises
    ------
    NotInRunsError
        If that cannot be.
    ValueError
        The parts of the file do not fit together.
    """
    name = layer if layer == "X" else f"layers/{layer}"
    try:
        file = open_file()
        reason = _why_not(file.open(), name, cache)
    except (OSError, KeyError, ValueError):
        reason = "it is no AnnData in a known format"
    if reason is not None:
        raise NotInRunsError(reason)
    matrix: Matrix = StoredMatrix(file, name)
    if cache is not None and file.open()[name].attrs.get("encoding-type") == "csc_matrix":
        matrix = convert_to_rows(StoredMatrix(file, name), cache)
    if annotation is None:
        with file.reading("var"):
            var = ad.io.read_elem(file.open()["var"])
        store = OneSource(matrix, FileTable(file, source), var, in_memory=False)
    else:
        store = OneSource(matrix, MemoryTable(annotation.obs, source), annotation.var, in_memory=False)
    if matrix.shape != (store.table.n_rows, len(store.var)):
        raise ValueError(
            f"{file.path}: {name} is {matrix.shape[0]} x {matrix.shape[1]}, but obs has {store.table.n_rows} rows and var has "
            f"{len(store.var)}. The file is damaged: write it again."
        )
    return store


def _why_not(group: Any, name: str, cache: Path | None) -> str | None:
    """Why an AnnData in a file cannot be read in runs of rows; None if it can."""
    if name not in group:
        return f"{name} is not in it"
    stored, obs = group[name], group["obs"]
    if is_array := not hasattr(stored, "keys"):
        if stored.shape is None or len(stored.shape) != 2:
            return f"{name} is not a table of cells and features"
    elif stored.attrs.get("encoding-type") == "csc_matrix":
        if cache is None:
            return f"{name} is stored by columns; name a folder as cache, and it is written there by rows, once"
    elif stored.attrs.get("encoding-type") != "csr_matrix":
        return f"{name} is stored as {stored.attrs.get('encoding-type', 'an old format')}, not by rows"
    if obs.attrs.get("encoding-type") != "dataframe" or "__categories" in obs:
        return "obs is in an old format"
    parts = [] if is_array else [f"{name}/{part}" for part in ("data", "indices", "indptr")]
    if any(part not in group for part in (*parts, f"var/{group['var'].attrs['_index']}")):
        return "a part of it is missing"
    names = obs[obs.attrs["_index"]]
    if hasattr(names, "keys") or not (names.dtype.kind in "TU" or h5py.check_string_dtype(names.dtype) is not None):
        return "the names of its cells are not stored as text"
    return None
