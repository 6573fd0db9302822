"""Writing of an AnnData to an HDF5 file block by block, with one block in memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd

__all__ = ["BlockWriter"]

# Elements with a row for each cell. Others are the same in each block and are written with the first.
PER_CELL = ("X", "layers", "obs", "obsm")


class BlockWriter:
    """Writer of cells to the root of a file, block by block, in the layout of anndata.

    anndata writes each block to a file in memory. The datasets of that file are then appended to those on disk.

    Parameters
    ----------
    file
        Empty file, open for writing.
    compression
        Compression of the datasets with a row for each cell.
    """

    def __init__(self, file: h5py.File, *, compression: str | None = None) -> None:
        self._file = file
        self._compression = compression
        self.n_cells = 0

    def append(self, block: ad.AnnData) -> None:
        """Append cells. Blocks must have the same features, layers, obsm, columns of obs, types and categories."""
        with h5py.File("block", "w", driver="core", backing_store=False) as staging:
            _write(staging, "block", block)
            source = staging["block"]
            if self.n_cells == 0:
                self._write_first(source)
            else:
                for name in PER_CELL:
                    if not _is_null(source.get(name)):
                        _append_rows(self._file[name], source[name])
                if not _is_null(source.get("raw")):
                    _append_rows(self._file["raw/X"], source["raw/X"])
        self.n_cells += block.n_obs

    def finish(self, **elements: Mapping[str, Any]) -> None:
        """Write whole elements, such as uns and obsp, after the last block."""
        for name in (*PER_CELL, "raw"):
            if name in self._file:
                _narrow_row_pointers(self._file[name])
        for name, element in elements.items():
            _write(self._file, name, dict(element))

    def replace_var(self, var: pd.DataFrame) -> None:
        """Write the annotation of the features again, with more columns."""
        del self._file["var"]
        _write(self._file, "var", var)

    def _write_first(self, source: h5py.Group) -> None:
        self._file.attrs.update(source.attrs)
        for name, element in source.items():
            if _is_null(element):
                # anndata 0.11 reads no element that is None.
                continue
            if name in PER_CELL:
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
        """Copy an element to datasets that can grow."""
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
        # The file may grow to more values than 32-bit row pointers can count.
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


def _write(group: h5py.Group, name: str, element: Any) -> None:
    """Write an element, with text in the form that every version of anndata reads."""
    with ad.settings.override(allow_write_nullable_strings=False):
        ad.io.write_elem(group, name, element)


def _narrow_row_pointers(element: h5py.Group | h5py.Dataset) -> None:
    """Give row pointers the type of the columns, if they fit.

    scipy changes no matrix in place whose types differ, and scanpy's tests of genes do that.
    """
    if isinstance(element, h5py.Dataset):
        return
    if element.attrs.get("encoding-type") != "csr_matrix":
        for part in element.values():
            _narrow_row_pointers(part)
        return
    pointers, dtype = element["indptr"], element["indices"].dtype
    if pointers.dtype != dtype and pointers[-1] <= np.iinfo(dtype).max:
        values, attributes, compression = pointers[()], dict(pointers.attrs), pointers.compression
        del element["indptr"]
        element.create_dataset("indptr", data=values.astype(dtype), maxshape=(None,), chunks=True, compression=compression)
        element["indptr"].attrs.update(attributes)


def _is_null(element: h5py.Group | h5py.Dataset | None) -> bool:
    """Return whether an element is None, as for an AnnData without X or raw. Some versions of anndata write it and others do not."""
    return element is None or (isinstance(element, h5py.Dataset) and element.shape is None)


def _append_rows(target: h5py.Group | h5py.Dataset, source: h5py.Group | h5py.Dataset) -> None:
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
            _append_rows(target[name], source[name])
