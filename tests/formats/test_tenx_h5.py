from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import scanpy as sc
from anndata import AnnData
from formats.damaged import AGAIN, assert_refused, open_cells
from formats.imitated import write_cellbender, write_old_tenx_h5
from formats.written import write_tenx_h5
from tables import assert_same_table

from scalex.formats import read_cells


@pytest.fixture
def path(few: AnnData, tmp_path: Path) -> Path:
    return write_tenx_h5(few, tmp_path / "cells.h5")


def assert_same(found: AnnData, expected: AnnData) -> None:
    np.testing.assert_array_equal(found.X.toarray(), expected.X.toarray())
    assert found.X.dtype == np.float32
    assert_same_table(found.obs, expected.obs)
    assert_same_table(found.var[sorted(found.var)], expected.var[sorted(expected.var)])


def test_counts_are_those_that_scanpy_reads(few: AnnData, path: Path, tmp_path: Path) -> None:
    assert_same(read_cells(path), sc.read_10x_h5(path))
    old = write_old_tenx_h5(few, tmp_path / "old.h5", "hg19")
    assert_same(read_cells(old), sc.read_10x_h5(old))


def test_more_arrays_of_cellbender_are_ignored(few: AnnData, tmp_path: Path) -> None:
    found = read_cells(write_cellbender(few, tmp_path / "out_filtered.h5"))
    np.testing.assert_array_equal(found.X.toarray(), few.X.toarray())
    assert set(found.var) == {"gene_ids", "feature_types", "genome"}


def test_types_of_features_may_be_absent(few: AnnData, path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["matrix/features/feature_type"]
    np.testing.assert_array_equal(open_cells(path).read(slice(None)).toarray(), few.X.toarray())
    assert_refused(path, "does not give the types of its features", feature_type="Peaks")


def test_several_genomes_and_molecules_are_refused(few: AnnData, tmp_path: Path) -> None:
    both = write_old_tenx_h5(few, tmp_path / "both.h5", "hg19", "mm10")
    assert_refused(both, r"holds several genomes: hg19, mm10\. Write one of them .* genome='hg19'\)\.write_h5ad\('cells\.h5ad'\)\.$")
    with h5py.File(tmp_path / "molecule_info.h5", "w") as file:
        file["barcode_idx"], file["umi"], file["barcodes"] = np.arange(3), np.arange(3), np.arange(3)
    assert_refused(tmp_path / "molecule_info.h5", r"holds the molecules of Cell Ranger, .* give filtered_feature_bc_matrix\.h5")


DAMAGES: dict[str, tuple[str, Any, str]] = {
    "no data": ("data", None, "/matrix misses data"),
    "no barcodes": ("barcodes", None, "it holds no counts with their barcodes, but matrix"),
    "other sizes": (
        "shape",
        [2_000_000_000, 2_000_000_000],
        "/matrix is 2000000000 x 2000000000, but there are 40 features",
    ),
    "fewer values": ("data", np.ones(5), r"/matrix has {'data': 5, .*} values, and its indptr ends at \d+, for 30 barcodes"),
    "no indptr": ("indptr", np.zeros(0, int), r"/matrix has .*'indptr': 0} values, and its indptr ends at 0"),
    "no names": ("features/name", None, "KeyError"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_damaged_counts_are_refused(path: Path, kind: str) -> None:
    part, value, match = DAMAGES[kind]
    with h5py.File(path, "a") as file:
        del file[f"matrix/{part}"]
        if value is not None:
            file[f"matrix/{part}"] = value
    assert_refused(path, rf"cells\.h5 is not a readable 10x \.h5 file \((?s:.*){match}(?s:.*)\)\. {AGAIN}")


def test_values_that_were_never_written_are_refused(path: Path) -> None:
    with h5py.File(path, "a") as file:
        del file["matrix/data"]
        file.create_dataset("matrix/data", (4_000_000_000,), "i4", chunks=(1000,))
    assert_refused(path, r"matrix/data should have 4000000000 values, which were never written")
