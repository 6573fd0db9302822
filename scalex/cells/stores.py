"""Stores of cells that are read in runs of rows. To add one, write a function that opens it and add it to `STORES`."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from scalex.cells.file_cells import NotBackableError
from scalex.cells.h5ad_cells import open_h5ad
from scalex.cells.one_source import OneSource
from scalex.cells.zarr_cells import open_zarr
from scalex.formats.zarr_store import is_zarr_folder

__all__ = ["STORES", "open_store"]


class StoreOpener(Protocol):
    """Function that opens the cells of a path. `layer` names the matrix, `source` the source in messages."""

    def __call__(self, path: Path, layer: str, source: str, cache: Path | None = None, *, follow_links: bool = False) -> OneSource:
        """Open the cells. See `scalex.cells.file_cells.open_anndata_file` and `StoredFile` for the parameters and errors."""
        ...


# By the extension of the file or folder.
STORES: dict[str, StoreOpener] = {".h5ad": open_h5ad, ".zarr": open_zarr, ".zarr.zip": open_zarr}


def open_store(path: Path, layer: str, source: str, cache: Path | None = None, *, follow_links: bool = False) -> OneSource:
    """Open cells that stay where they are.

    Raises
    ------
    NotBackableError
        If the cells cannot be read in runs of rows.
    """
    name = ".zarr" if path.is_dir() and is_zarr_folder(path) else path.name.lower()
    for extension, open_cells in STORES.items():
        if name.endswith(extension):
            return open_cells(path, layer, source, cache, follow_links=follow_links)
    raise NotBackableError(f"only {', '.join(STORES)} are read in runs of rows")
