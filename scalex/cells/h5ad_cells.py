"""Cells of an .h5ad file, read in runs of rows."""

from __future__ import annotations

from pathlib import Path

import anndata as ad

from scalex.cells.file_cells import find_names, open_anndata_file
from scalex.cells.one_source import OneSource
from scalex.formats.hdf5 import check_element
from scalex.h5ad.open_file import StoredFile

__all__ = ["open_h5ad"]


def open_h5ad(
    path: Path,
    layer: str,
    source: str,
    cache: Path | None = None,
    annotation: ad.AnnData | None = None,
    *,
    follow_links: bool = False,
) -> OneSource:
    """Open the cells of an .h5ad file. See `scalex.cells.file_cells.open_anndata_file`."""
    return open_anndata_file(lambda: _open_checked(path, layer, follow_links), layer, source, cache, annotation)


def _open_checked(path: Path, layer: str, follow_links: bool) -> StoredFile:
    """Open a file, if memory can be taken for the sizes of its tables and of the pointers of its matrix."""
    file = StoredFile(path, follow_links=follow_links)
    group = file.open()
    for name in ("obs", *find_names(group, layer)):
        if name in group:
            check_element(group[name])
    return file
