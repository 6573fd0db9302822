"""Cells of an AnnData in a file, read in runs of rows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import h5py

from scalex.cells.file_obs import FileTable, is_nullable_text
from scalex.cells.in_memory import RAW, MemoryTable
from scalex.cells.one_source import OneSource
from scalex.cells.protocol import Matrix
from scalex.formats.hdf5 import ForeignDataError
from scalex.h5ad.csc_to_csr import convert_to_rows
from scalex.h5ad.matrix import AnnDataFile, StoredMatrix

__all__ = ["NotBackableError", "find_names", "open_anndata_file"]


class NotBackableError(Exception):
    """Reason why cells cannot stay in their file and are read into memory."""


def open_anndata_file(
    open_file: Callable[[], AnnDataFile], layer: str, source: str, cache: Path | None = None, annotation: ad.AnnData | None = None
) -> OneSource:
    """Open the cells of a file, which stay there.

    Parameters
    ----------
    open_file
        Function that opens the file.
    layer
        "X", "raw", or the name of a layer.
    source
        Name of the source, for messages.
    cache
        Folder for the rows of a matrix that is stored by columns; None: such a matrix is not opened.
    annotation
        AnnData whose obs and var replace those of the file.

    Raises
    ------
    NotBackableError
        If the file cannot be read in runs of rows.
    ValueError
        If the parts of the file do not fit together, or it takes data from other files.
    """
    try:
        file = open_file()
        name, var_name = find_names(file.open(), layer)
        reason = _find_obstacle(file.open(), name, var_name, cache)
    except ForeignDataError:
        raise
    except (OSError, KeyError, ValueError):
        reason = "it is not an AnnData in a known format"
    if reason is not None:
        raise NotBackableError(reason)
    matrix: Matrix = StoredMatrix(file, name)
    if cache is not None and file.open()[name].attrs.get("encoding-type") == "csc_matrix":
        matrix = convert_to_rows(StoredMatrix(file, name), cache)
    if annotation is None:
        with file.explain_errors(var_name):
            var = ad.io.read_elem(file.open()[var_name])
        store = OneSource(matrix, FileTable(file, source), var, in_memory=False)
    else:
        var = annotation.raw.var if var_name == "raw/var" else annotation.var
        store = OneSource(matrix, MemoryTable(annotation.obs, source), var, in_memory=False)
    if matrix.shape != (store.table.n_rows, len(store.var)):
        raise ValueError(
            f"{file.path}: {name} is {matrix.shape[0]} x {matrix.shape[1]}, but obs has {store.table.n_rows} rows and {var_name} has "
            f"{len(store.var)}. The file is damaged: write it again."
        )
    return store


def find_names(group: Any, layer: str) -> tuple[str, str]:
    """Return the names of a matrix and of the annotation of its features in a file."""
    if layer == RAW and f"layers/{RAW}" not in group:
        return "raw/X", "raw/var"
    return layer if layer == "X" else f"layers/{layer}", "var"


def _find_obstacle(group: Any, name: str, var_name: str, cache: Path | None) -> str | None:
    """Return why an AnnData in a file cannot be read in runs of rows; None if it can."""
    if name not in group:
        return f"{name} is not in it"
    stored, obs = group[name], group["obs"]
    if is_array := not hasattr(stored, "keys"):
        if stored.shape is None or len(stored.shape) != 2:
            return f"{name} is not a matrix of cells and features"
    elif stored.attrs.get("encoding-type") == "csc_matrix":
        if cache is None:
            return f"{name} is stored by columns; set cache to a folder, in which it is stored by rows once"
    elif stored.attrs.get("encoding-type") != "csr_matrix":
        return f"{name} is stored as {stored.attrs.get('encoding-type', 'an old format')}, not by rows"
    if obs.attrs.get("encoding-type") != "dataframe" or "__categories" in obs:
        return "obs is in an old format"
    parts = [] if is_array else [f"{name}/{part}" for part in ("data", "indices", "indptr")]
    if any(part not in group for part in (*parts, f"{var_name}/{group[var_name].attrs['_index']}")):
        return "a part of it is missing"
    names = obs[obs.attrs["_index"]]
    if is_nullable_text(names):
        return None
    if hasattr(names, "keys") or not (names.dtype.kind in "TU" or h5py.check_string_dtype(names.dtype) is not None):
        return "the names of its cells are not stored as text"
    return None
