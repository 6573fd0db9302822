"""Cells of one modality of a .h5mu file."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd

from scalex.formats.anndata_group import read_anndata_group
from scalex.formats.hdf5 import check_element

__all__ = ["read_modality"]


def read_modality(path: Path, modality: str) -> ad.AnnData:
    """Read the cells of a modality. Columns of obs of the whole MuData that the modality lacks are added to its own."""
    with h5py.File(path) as file:
        group = file["mod"][modality]
        adata = read_anndata_group(group, path, lambda name: check_element(group[name]))
        if "obs" in file:
            shared = ad.io.read_elem(file["obs"])
            rows = _find_rows(file, modality, adata.obs_names, shared.index)
            # MuData also keeps copies of the columns of its modalities, as rna:sample.
            copies = tuple(f"{name}:" for name in file["mod"])
            for column in shared:
                if column not in adata.obs and not str(column).startswith(copies):
                    adata.obs[column] = shared[column].iloc[rows].set_axis(adata.obs_names)
    return adata


def _find_rows(file: h5py.File, modality: str, own: pd.Index, shared: pd.Index) -> np.ndarray:
    """Return the row of each cell of the modality in the table of all cells."""
    if f"obsmap/{modality}" in file:
        # For each cell of the table, 0 or its position in the modality, counted from 1.
        position = file[f"obsmap/{modality}"][:].ravel().astype(np.int64)
        rows = np.flatnonzero(position)
        rows = rows[np.argsort(position[rows])]
    else:
        rows = shared.get_indexer(own)
    if len(rows) != len(own) or (rows < 0).any():
        raise ValueError(f"obs of the MuData has {len(rows)} of the {len(own)} cells of {modality}")
    return rows
