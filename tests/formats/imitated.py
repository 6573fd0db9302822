"""Writers that imitate programs and versions that are not installed here."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from anndata import AnnData
from formats.written import write_h5ad, write_tenx, write_tenx_h5, write_text, write_zarr
from scipy import sparse


def write_old_tenx_h5(cells: AnnData, path: Path, *genomes: str) -> Path:
    """Write a file like those of Cell Ranger 2."""
    with h5py.File(write_tenx_h5(cells, path), "a") as file:
        features = file["matrix/features"]
        file["matrix/genes"], file["matrix/gene_names"] = features["id"][()], features["name"][()]
        del file["matrix/features"]
        for genome in genomes:
            file.copy("matrix", genome)
        del file["matrix"]
    return path


def write_like_anndata_0_6(cells: AnnData, path: Path) -> Path:
    """Write obs and var as one array each, with the categories in uns."""
    with h5py.File(path, "w") as file:
        matrix = sparse.csr_matrix(cells.X)
        group = file.create_group("X")
        group.attrs["h5sparse_format"], group.attrs["h5sparse_shape"] = "csr", matrix.shape
        for part in ("data", "indices", "indptr"):
            group[part] = getattr(matrix, part)
        obs = np.zeros(cells.n_obs, [("index", "S30"), ("kind", "i1")])
        obs["index"], obs["kind"] = cells.obs_names.to_numpy().astype("S"), cells.obs["kind"].cat.codes
        file["obs"] = obs
        file["var"] = np.array(list(zip(cells.var_names.to_numpy().astype("S"), strict=True)), [("index", "S30")])
        file["uns/kind_categories"] = cells.obs["kind"].cat.categories.to_numpy().astype("S")
    return path


def write_like_anndata_0_7(cells: AnnData, path: Path) -> Path:
    """Write the categories beside the columns, without the encoding of SeuratDisk."""
    with h5py.File(path, "w") as file:
        ad.io.write_elem(file, "X", cells.X)
        for name, index in (("obs", cells.obs_names), ("var", cells.var_names)):
            table = file.create_group(name)
            columns = ["kind"] if name == "obs" else []
            table.attrs.update({"encoding-type": "dataframe", "encoding-version": "0.1.0", "_index": "_index"})
            table.attrs["column-order"] = np.array(columns, h5py.string_dtype())
            table["_index"] = np.array(index, h5py.string_dtype())
        file["obs/__categories/kind"] = np.array(cells.obs["kind"].cat.categories, h5py.string_dtype())
        file["obs/kind"] = cells.obs["kind"].cat.codes.to_numpy()
        file["obs/kind"].attrs["categories"] = file["obs/__categories/kind"].ref
    return path


def write_cellbender(cells: AnnData, path: Path) -> Path:
    """Write a file of Cell Ranger with the arrays that CellBender adds."""
    with h5py.File(write_tenx_h5(cells, path), "a") as file:
        file["matrix/latent_gene_encoding"], file["matrix/ambient_expression"] = np.ones((7, 3)), np.ones(cells.n_vars)
        file["matrix/barcode_indices_for_latents"] = np.arange(7)
        file["metadata/cell_size"], file["droplet_latents/cell_probability"] = np.ones(3), np.ones(7)
    return path


def write_like_zellkonverter(cells: AnnData, path: Path) -> Path:
    """Write what zellkonverter makes of a SingleCellExperiment: the main assay as X with its name in uns, whole numbers as doubles."""
    converted = cells.copy()
    converted.X = sparse.csc_matrix(cells.X, dtype=np.float64)
    converted.uns["X_name"] = "counts"
    converted.layers["logcounts"] = sparse.csc_matrix(cells.X).log1p()
    return write_h5ad(converted, path)


def write_zip(cells: AnnData, path: Path) -> Path:
    """Write a store of zarr in a zip."""
    store = write_zarr(cells, path.with_suffix(""))
    with zipfile.ZipFile(path, "w") as packed:
        for file in sorted(store.rglob("*")):
            packed.write(file, file.relative_to(store))
    return path


def write_packed_text(cells: AnnData, path: Path, module: str) -> Path:
    import bz2
    import lzma

    text = write_text(cells, path.with_suffix(""), ",").read_bytes()
    path.write_bytes({"bz2": bz2, "lzma": lzma}[module].compress(text))
    return path


def with_kind(cells: AnnData) -> AnnData:
    """Return the cells with a column of categories."""
    cells = cells.copy()
    cells.obs["kind"] = pd.Categorical(["a", "b"] * (cells.n_obs // 2))
    return cells


IMITATIONS: dict[str, Callable[[AnnData, Path], Path]] = {
    "anndata 0.6": lambda cells, folder: write_like_anndata_0_6(with_kind(cells), folder / "cells.h5ad"),
    "anndata 0.7": lambda cells, folder: write_like_anndata_0_7(with_kind(cells), folder / "cells.h5ad"),
    "zellkonverter": lambda cells, folder: write_like_zellkonverter(cells, folder / "cells.h5ad"),
    "zarr.zip": lambda cells, folder: write_zip(cells, folder / "cells.zarr.zip"),
    "csv.bz2": lambda cells, folder: write_packed_text(cells, folder / "cells.csv.bz2", "bz2"),
    "csv.xz": lambda cells, folder: write_packed_text(cells, folder / "cells.csv.xz", "lzma"),
    "Cell Ranger 2": lambda cells, folder: write_tenx(
        cells, folder / "run" / "outs" / "filtered_gene_bc_matrices" / "GRCh38", features="genes", gz=False, n_columns=2
    ).parents[2],
    "Cell Ranger 2 h5": lambda cells, folder: write_old_tenx_h5(cells, folder / "cells.h5", "GRCh38"),
    "CellBender": lambda cells, folder: write_cellbender(cells, folder / "out_filtered.h5"),
    "hdf5": lambda cells, folder: write_tenx_h5(cells, folder / "cells.hdf5"),
    "STARsolo": lambda cells, folder: write_tenx(cells, folder / "Solo.out" / "Gene" / "filtered", gz=False).parents[1],
}
