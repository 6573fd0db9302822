"""Cells of an .h5ad file, read from it in runs of rows."""

from __future__ import annotations

from pathlib import Path

import anndata as ad

from scalex.cells.file_cells import file_store
from scalex.cells.one_source import OneSource
from scalex.h5ad.open_file import StoredFile

__all__ = ["h5ad_store"]


def h5ad_store(path: Path, layer: str, source: str, cache: Path | None = None, annotation: ad.AnnData | None = None) -> OneSource:
    """The cells of an .h5ad file; see `scalex.cells.file_cells.file_store`."""
    return file_store(lambda: StoredFile(path), layer, source, cache, annotation)
