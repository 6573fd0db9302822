"""Writers of cells in every format."""

from __future__ import annotations

import gzip
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import anndata as ad
import h5py
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from anndata import AnnData
from scipy import sparse
from scipy.io import mmwrite


def compress(path: Path) -> Path:
    with path.open("rb") as plain, gzip.open(f"{path}.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    path.unlink()
    return path.with_name(f"{path.name}.gz")


def write_text(cells: AnnData, path: Path, separator: str, *, transposed: bool = False, corner: bool = True) -> Path:
    table = pd.DataFrame(cells.X.toarray(), index=cells.obs_names, columns=cells.var_names)
    text = (table if transposed else table.T).to_csv(sep=separator)
    path.write_text(text if corner else text[1:])
    return path


def write_tenx(cells: AnnData, folder: Path, *, features: str = "features", prefix: str = "", gz: bool = True, n_columns: int = 3) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    matrix = folder / f"{prefix}matrix.mtx"
    mmwrite(matrix, sparse.coo_matrix(cells.X.T).astype(int), field="integer")
    columns = {"id": [f"ENSG{i:011d}" for i in range(cells.n_vars)], "name": cells.var_names, "type": "Gene Expression"}
    table = pd.DataFrame(columns).iloc[:, :n_columns] if n_columns > 1 else pd.DataFrame({"name": cells.var_names})
    # Cell Ranger puts no name in quotes, whatever it contains.
    for name, rows in ((features, table.to_numpy().tolist()), ("barcodes", [[cell] for cell in cells.obs_names])):
        (folder / f"{prefix}{name}.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")
    if gz:
        for name in ("matrix.mtx", f"{features}.tsv", "barcodes.tsv"):
            compress(folder / f"{prefix}{name}")
    return folder


def write_layout(cells: AnnData, folder: Path, names: tuple[str, str, str], *, has_header: bool = False) -> Path:
    """Write a matrix with a row for each cell, beside the tables of its cells and features."""
    folder.mkdir(parents=True, exist_ok=True)
    mmwrite(folder / names[0], sparse.coo_matrix(cells.X).astype(int), field="integer", symmetry="general")
    tables = pd.DataFrame({"bc_wells": cells.obs_names}), pd.DataFrame({"gene_id": [f"ENSG{i:011d}" for i in range(cells.n_vars)]})
    if has_header:
        tables[0]["sample"], tables[0]["tscp_count"] = "s1", 7
        tables[1]["gene_name"], tables[1]["genome"] = cells.var_names, "hg38"
    else:
        tables[1]["gene_id"] = cells.var_names
    for name, table in zip(names[1:], tables, strict=True):
        table.to_csv(folder / name, header=has_header, index=False)
    return folder


KALLISTO = ("cells_x_genes.mtx", "cells_x_genes.barcodes.txt", "cells_x_genes.genes.txt")
ALEVIN = ("quants_mat.mtx", "quants_mat_rows.txt", "quants_mat_cols.txt")
PARSE = ("count_matrix.mtx", "cell_metadata.csv", "all_genes.csv")


def write_tenx_h5(cells: AnnData, path: Path) -> Path:
    """Write a file like those of Cell Ranger 3."""
    with h5py.File(path, "w") as file:
        group = file.create_group("matrix")
        matrix = sparse.csr_matrix(cells.X)
        group["data"], group["indices"], group["indptr"] = matrix.data.astype("int32"), matrix.indices.astype("int64"), matrix.indptr
        group["shape"] = [cells.n_vars, cells.n_obs]
        group["barcodes"] = cells.obs_names.to_numpy().astype("S")
        features = group.create_group("features")
        features["id"] = np.array([f"ENSG{i:011d}" for i in range(cells.n_vars)], "S")
        features["name"] = cells.var_names.to_numpy().astype("S")
        features["feature_type"] = np.array(["Gene Expression"] * cells.n_vars, "S")
        features["genome"] = np.array(["GRCh38"] * cells.n_vars, "S")
    return path


def make_mudata(modalities: dict[str, AnnData]) -> mudata.MuData:
    """Return a MuData whose columns of all cells are its own, which is the default since mudata 0.4."""
    if hasattr(mudata, "set_options"):
        # Writing asks for it, too.
        mudata.set_options(pull_on_update=False)
    return mudata.MuData(modalities)


def write_h5mu(cells: AnnData, path: Path) -> Path:
    other = AnnData(cells.X[:, :5].copy(), obs=cells.obs.copy(), var=cells.var.iloc[:5].set_axis([f"protein{i}" for i in range(5)]))
    make_mudata({"rna": cells.copy(), "adt": other}).write(path)
    return path


def write_zarr(cells: AnnData, path: Path, zarr_format: Literal[2, 3] = 2) -> Path:
    # anndata warns about future defaults and about the setting.
    with warnings.catch_warnings(action="ignore"), ad.settings.override(zarr_write_format=zarr_format):
        cells.write_zarr(path)
    return path


def write_h5ad(cells: AnnData, path: Path) -> Path:
    cells.write_h5ad(path)
    return path


def _list_attributes(table: pd.DataFrame, names: str) -> dict[str, np.ndarray]:
    """Return the columns of a table, and its index under a name that anndata looks for."""
    return {names: table.index.to_numpy(str)} | {str(name): column.to_numpy() for name, column in table.items()}


def write_loom(cells: AnnData, path: Path) -> Path:
    n_threads = torch.get_num_threads()
    loompy = pytest.importorskip("loompy")
    # The import of loompy makes torch use all cores.
    torch.set_num_threads(n_threads)
    with warnings.catch_warnings(action="ignore"):
        # loompy uses what Python advises against.
        values = cells.X.T.toarray() if sparse.issparse(cells.X) else cells.X.T
        loompy.create(str(path), values, _list_attributes(cells.var, "var_names"), _list_attributes(cells.obs, "obs_names"))
    return path


WRITERS: dict[str, Callable[[AnnData, Path], Path]] = {
    "h5ad": lambda cells, folder: write_h5ad(cells, folder / "cells.h5ad"),
    "zarr": lambda cells, folder: write_zarr(cells, folder / "cells.zarr"),
    "csv": lambda cells, folder: write_text(cells, folder / "cells.csv", ","),
    "csv.gz": lambda cells, folder: compress(write_text(cells, folder / "cells.csv", ",")),
    "tsv": lambda cells, folder: write_text(cells, folder / "cells.tsv", "\t"),
    "tsv without corner": lambda cells, folder: write_text(cells, folder / "cells.tsv", "\t", corner=False),
    "txt": lambda cells, folder: write_text(cells, folder / "cells.txt", " "),
    "txt.gz": lambda cells, folder: compress(write_text(cells, folder / "cells.txt", "\t")),
    "10x new": lambda cells, folder: write_tenx(cells, folder / "new"),
    "10x old": lambda cells, folder: write_tenx(cells, folder / "old", features="genes", gz=False, n_columns=2),
    "10x with a sample's name": lambda cells, folder: write_tenx(cells, folder / "named", prefix="GSM1_"),
    "10x names alone": lambda cells, folder: write_tenx(cells, folder / "alone", n_columns=1, gz=False),
    "mtx": lambda cells, folder: write_tenx(cells, folder / "mtx", prefix="GSM1.") / "GSM1.matrix.mtx.gz",
    "10x results": lambda cells, folder: write_tenx(cells, folder / "run" / "outs" / "filtered_feature_bc_matrix").parents[1],
    "kallisto": lambda cells, folder: write_layout(cells, folder / "counts_unfiltered", KALLISTO),
    "alevin": lambda cells, folder: compress(write_layout(cells, folder / "alevin", ALEVIN) / ALEVIN[0]),
    "parse": lambda cells, folder: write_layout(cells, folder / "DGE_filtered", PARSE, has_header=True),
    "10x h5": lambda cells, folder: write_tenx_h5(cells, folder / "cells.h5"),
    "h5mu": lambda cells, folder: write_h5mu(cells, folder / "cells.h5mu") / "rna",
    "loom": lambda cells, folder: write_loom(cells, folder / "cells.loom"),
}
