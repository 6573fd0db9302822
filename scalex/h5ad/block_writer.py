"""An AnnData written to an HDF5 file block by block, so that only one block is in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata as ad
import h5py
import numpy as np

__all__ = ["BlockWriter"]

# What has a row for each cell; all else is the same in each block and written with the first.
PER_CELL = ("X", "layers", "obs", "obsm")


class BlockWriter:
    """Write cells to the root of a file as anndata does, a block at a time.

    Each block is laid out by anndata itself in a file in memory; its datasets are then added to those of the file.

    Parameters
    ----------
    file
        An empty file, open for writing.
    compression
        Of the datasets that grow.
    """

    def __init__(self, file: h5py.File, *, compression: str | None = None) -> None:
        self._file = file
        self._compression = compression
        self.n_cells = 0

    def append(self, block: ad.AnnData) -> None:
        """Add cells. Blocks agree in everything but their rows: features, columns of obs and their types, categories, obsm, layers."""
        with h5py.File("block", "w", driver="core", backing_store=False) as laid_out:
            ad.io.write_elem(laid_out, "block", block)
            source = laid_out["block"]
            if self.n_cells == 0:
                self._begin(source)
            else:
                for name in PER_CELL:
                    if not _is_null(source.get(name)):
                        _append(self._file[name], source[name])
                if not _is_null(source.get("raw")):
                    _append(self._file["raw/X"], source["raw/X"])
        self.n_cells += block.n_obs

    def finish(self, **elements: Mapping[str, Any]) -> None:
        """Write whole elements, such as uns and obsp, once all cells are there."""
        for name, element in elements.items():
            ad.io.write_elem(self._file, name, dict(element))

    def _begin(self, source: h5py.Group) -> None:
        self._file.attrs.update(source.attrs)
        for name, element in source.items():
            if _is_null(element):
                source.copy(element, self._file, name)
            elif name in PER_CELL:
                self._create(self._file, name, element)
            elif name == "raw":
                raw = self._file.create_group(name)
                raw.attrs.update(element.attrs)
                for part in element:
                    if part == "X":
                        self._create(raw, part, element[part])
                    else:
                        source.copy(element[part], raw, part)
            else:
                source.copy(element, self._file, name)

    def _create(self, parent: h5py.Group, name: str, element: h5py.Group | h5py.Dataset) -> None:
        """Copy an element so that it can grow."""
        kind = parent.attrs.get("encoding-type")
        if name == "categories" and kind == "categorical":
            element.parent.copy(element, parent, name)
            return
        if isinstance(element, h5py.Group):
            group = parent.create_group(name)
            group.attrs.update(element.attrs)
            for part in element:
                self._create(group, part, element[part])
            return
        # A file may come to hold more values than a 32-bit row pointer can count.
        dtype = np.dtype(np.int64) if name == "indptr" and kind == "csr_matrix" else element.dtype
        dataset = parent.create_dataset(
            name,
            data=element[()],
            dtype=dtype,
            maxshape=(None, *element.shape[1:]),
            chunks=True,
            compression=self._compression,
        )
        dataset.attrs.update(element.attrs)


def _is_null(element: h5py.Group | h5py.Dataset | None) -> bool:
    """Whether it stands for None, as anndata writes an AnnData without X or raw (some versions leave it out)."""
    return element is None or (isinstance(element, h5py.Dataset) and element.shape is None)


def _append(target: h5py.Group | h5py.Dataset, source: h5py.Group | h5py.Dataset) -> None:
    if isinstance(target, h5py.Dataset):
        n_before = target.shape[0]
        target.resize(n_before + source.shape[0], axis=0)
        target[n_before:] = source[()]
        return
    if target.attrs.get("encoding-type") == "csr_matrix":
        ad.io.sparse_dataset(target).append(ad.io.read_elem(source))
        return
    assert set(target) == set(source), f"blocks differ in {target.name}: {sorted(set(target) ^ set(source))}"
    for name in source:
        if name == "categories" and target.attrs.get("encoding-type") == "categorical":
            assert list(target[name][()]) == list(source[name][()]), f"blocks differ in the categories of {target.name}"
        else:
            _append(target[name], source[name])
