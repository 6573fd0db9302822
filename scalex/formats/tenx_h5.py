"""Files of counts of Cell Ranger and CellBender: .h5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from scipy import sparse

from scalex.formats.advice import AdvisedError
from scalex.formats.hdf5 import check_element

__all__ = ["read_tenx_h5"]

PARTS = ("barcodes", "data", "indices", "indptr", "shape")
# Arrays of the molecules before they were counted.
MOLECULES = {"barcode_idx", "feature_idx", "gene", "umi"}


def read_tenx_h5(path: Path) -> ad.AnnData:
    """Read counts with their cells and features.

    Returns
    -------
    AnnData
        Counts, float32 CSR. The names of features are their symbols. var holds their annotation in the file: "gene_ids" and, since Cell
        Ranger 3, "feature_types", "genome" and others.

    Raises
    ------
    ValueError
        If the file is damaged, of another program, or holds several genomes.
    """
    with h5py.File(path) as file:
        group = _find_group(file, path)
        check_element(group)
        missing = [part for part in PARTS if part not in group]
        if missing:
            raise ValueError(f"{group.name} misses {', '.join(missing)}")
        var = _read_features(group)
        matrix = _read_counts(group, len(group["barcodes"]), len(var))
        return ad.AnnData(matrix, obs=pd.DataFrame(index=pd.Index(_read_text(group["barcodes"]), dtype=object)), var=var)


def _find_group(file: h5py.File, path: Path) -> h5py.Group:
    """Return the group of the counts: matrix, or a genome before Cell Ranger 3."""
    if len(MOLECULES & set(file)) > 1:
        raise AdvisedError(
            f"{path} holds the molecules of Cell Ranger, not counts of cells: give filtered_feature_bc_matrix.h5, which is beside it."
        )
    names = [name for name in file if isinstance(file[name], h5py.Group) and "barcodes" in file[name]]
    if len(names) > 1 and "matrix" not in names:
        raise AdvisedError(
            f"{path} holds several genomes: {', '.join(names)}. Write one of them to .h5ad, as with scanpy.read_10x_h5({str(path)!r}, "
            f"genome={names[0]!r}).write_h5ad('cells.h5ad')."
        )
    if not names:
        raise ValueError(f"it holds no counts with their barcodes, but {', '.join(sorted(file)[:8]) or 'nothing'}")
    return file["matrix" if "matrix" in names else names[0]]


def _read_counts(group: h5py.Group, n_cells: int, n_features: int) -> sparse.csr_matrix:
    shape = tuple(int(size) for size in group["shape"][()])
    if shape != (n_features, n_cells):
        raise ValueError(f"{group.name} is {' x '.join(map(str, shape))}, but there are {n_features} features and {n_cells} barcodes")
    sizes = {part: group[part].shape[0] for part in ("data", "indices", "indptr")}
    end = int(group["indptr"][-1]) if sizes["indptr"] else 0
    if sizes["indptr"] != n_cells + 1 or not sizes["data"] == sizes["indices"] == end:
        raise ValueError(f"{group.name} has {sizes} values, and its indptr ends at {end}, for {n_cells} barcodes")
    # The file has the columns of features x cells, which are the rows of cells x features.
    parts = group["data"][()].astype(np.float32, copy=False), group["indices"][()], group["indptr"][()]
    return sparse.csr_matrix(parts, shape=(n_cells, n_features))


def _read_features(group: h5py.Group) -> pd.DataFrame:
    if "features" not in group:
        return pd.DataFrame({"gene_ids": _read_text(group["genes"])}, index=pd.Index(_read_text(group["gene_names"]), dtype=object))
    features = group["features"]
    names = _read_text(features["name"])
    # In files of probes, id is that of the probe.
    columns: dict[str, Any] = {"gene_ids": _read_text(features["gene_id" if "gene_id" in features else "id"])}
    if "gene_id" in features:
        columns["probe_ids"] = _read_text(features["id"])
    for name, stored in features.items():
        if name not in ("name", "id", "gene_id") and not name.startswith("_") and stored.shape == (len(names),):
            columns["feature_types" if name == "feature_type" else name] = stored[()] if stored.dtype.kind == "b" else _read_text(stored)
    return pd.DataFrame(columns, index=pd.Index(names, dtype=object))


def _read_text(stored: h5py.Dataset) -> np.ndarray[Any, np.dtype[Any]]:
    values = stored[()]
    return np.array([value.decode() if isinstance(value, bytes) else str(value) for value in values], dtype=object)
