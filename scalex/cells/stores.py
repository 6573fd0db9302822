"""Stores of cells that are read in runs of rows. To add one, write a function that opens it and add it to `STORES`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import anndata as ad

from scalex.cells.file_cells import NotBackableError
from scalex.cells.h5ad_cells import open_h5ad
from scalex.cells.in_memory import RAW, named_layers
from scalex.cells.one_source import OneSource
from scalex.cells.zarr_cells import ZarrFile, open_zarr
from scalex.formats.zarr_store import is_zarr_folder
from scalex.h5ad.open_file import StoredFile

__all__ = ["STORES", "list_layers", "open_store"]


class StoreOpener(Protocol):
    """Function that opens the cells of a path. `layer` names the matrix, `source` the source in messages."""

    def __call__(self, path: Path, layer: str, source: str, cache: Path | None = None, *, follow_links: bool = False) -> OneSource:
        """Open the cells. See `scalex.cells.file_cells.open_anndata_file` and `StoredFile` for the parameters and errors."""
        ...


# By the extension of the file or folder.
STORES: dict[str, StoreOpener] = {".h5ad": open_h5ad, ".zarr": open_zarr, ".zarr.zip": open_zarr}


def list_layers(source: Path | ad.AnnData, *, follow_links: bool = False) -> list[str]:
    """Return "raw", if an AnnData or a store has it, and the names of its layers; nothing for a path that is no AnnData in a store."""
    if isinstance(source, ad.AnnData):
        return [*([RAW] if source.raw is not None else []), *named_layers(source)]
    extension = _find_extension(source)
    if extension == ".h5ad":
        group: Any = StoredFile(source, follow_links=follow_links).open()
    elif extension in (".zarr", ".zarr.zip"):
        group = ZarrFile(source).open()
    else:
        return []
    return [*([RAW] if "raw/X" in group else []), *group.get("layers", [])]


def open_store(path: Path, layer: str, source: str, cache: Path | None = None, *, follow_links: bool = False) -> OneSource:
    """Open cells that stay where they are.

    Raises
    ------
    NotBackableError
        If the cells cannot be read in runs of rows.
    """
    extension = _find_extension(path)
    if extension is None:
        raise NotBackableError(f"only {', '.join(STORES)} are read in runs of rows")
    return STORES[extension](path, layer, source, cache, follow_links=follow_links)


def _find_extension(path: Path) -> str | None:
    name = ".zarr" if path.is_dir() and is_zarr_folder(path) else path.name.lower()
    return next((extension for extension in STORES if name.endswith(extension)), None)
