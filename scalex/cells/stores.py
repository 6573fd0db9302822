"""Stores of cells that are read in runs of rows: to add one, write a function that opens it, and name it here."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from scalex.cells.file_cells import NotInRunsError
from scalex.cells.h5ad_cells import h5ad_store
from scalex.cells.one_source import OneSource
from scalex.cells.zarr_cells import zarr_store
from scalex.formats.zarr_store import is_zarr_folder

__all__ = ["STORES", "open_store"]


class OpenStore(Protocol):
    """Open the cells of a path, with a matrix, what they are called in messages, and a folder for what is made of them."""

    def __call__(self, path: Path, layer: str, source: str, cache: Path | None = None) -> OneSource:
        """Open them; see `scalex.cells.file_cells.file_store` for what it raises."""
        ...


# By the ending of the file or folder.
STORES: dict[str, OpenStore] = {".h5ad": h5ad_store, ".zarr": zarr_store, ".zarr.zip": zarr_store}


def open_store(path: Path, layer: str, source: str, cache: Path | None = None) -> OneSource:
    """Open cells that stay where they are.

    Raises
    ------
    NotInRunsError
        If they have to be read into memory.
    """
    name = ".zarr" if path.is_dir() and is_zarr_folder(path) else path.name
    found = [ending for ending in STORES if name.endswith(ending)]
    if not found:
        raise NotInRunsError(f"only {', '.join(STORES)} are read in runs of rows")
    return STORES[found[0]](path, layer, source, cache)
