from __future__ import annotations

import logging
import os
import signal
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pytest
from anndata import AnnData
from commands import Child
from scipy import sparse

from scalex.cells import AnnDataSource, BackedCells
from scalex.h5ad.csc_to_csr import convert_to_rows
from scalex.h5ad.matrix import StoredMatrix

N_CELLS, N_FEATURES = 200, 70


@pytest.fixture
def matrix() -> sparse.csc_matrix:
    """Counts with full, sparse and empty columns, and with empty rows."""
    rng = np.random.default_rng(0)
    values = rng.poisson(2, (N_CELLS, N_FEATURES)) * (rng.random((N_CELLS, N_FEATURES)) < rng.random(N_FEATURES))
    values[[0, 1, 90, N_CELLS - 1]] = 0
    values[:, [0, 33, N_FEATURES - 1]] = 0
    return sparse.csc_matrix(values)


def write(matrix: Any, folder: Path, **options: Any) -> Path:
    path = folder / "cells.h5ad"
    obs = {"batch": np.arange(matrix.shape[0]) % 2}
    AnnData(matrix, obs=obs).write_h5ad(path, **options)
    return path


@pytest.mark.parametrize("dtype", [np.int64, np.float64, np.float32])
@pytest.mark.parametrize("block_values", [500, 10**6])
def test_rows_equal_those_of_scipy(matrix: sparse.csc_matrix, tmp_path: Path, dtype: Any, block_values: int) -> None:
    path = write(matrix.astype(dtype), tmp_path, compression="gzip")
    stored = convert_to_rows(StoredMatrix(path, "X"), tmp_path / "cache", block_values=block_values)
    expected = matrix.tocsr()
    assert stored.shape == expected.shape
    for rows in (slice(None), slice(20, 90), np.array([0, 3, 4, 198])):
        found = stored.read(rows)
        assert found.dtype == np.float32
        assert (found != expected[rows]).nnz == 0
    assert ad.read_h5ad(stored.file.path).shape == (N_CELLS, N_FEATURES)
    # No other file is left.
    assert list((tmp_path / "cache").iterdir()) == [stored.file.path]


def test_cells_equal_cells_in_memory(demo: AnnData, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    demo.X = sparse.csc_matrix(demo.X)
    paths = []
    for i, part in enumerate((demo[:120], demo[120:])):
        paths.append(tmp_path / f"{i}.h5ad")
        part.copy().write_h5ad(paths[-1])
    options: Any = {"path": paths, "batch_key": "batch", "source_key": "file"}
    expected = AnnDataSource(**options).open()
    for message in ("its rows are written once to", "its rows are read from"):
        caplog.clear()
        backed = AnnDataSource(**options, backed=True, cache=tmp_path / "cache").open()
        assert caplog.text.count(f"is stored by columns: {message} {tmp_path / 'cache'}") == 2
        assert isinstance(backed, BackedCells)
        assert (backed.read(slice(None)) != expected.read(slice(None))).nnz == 0
        assert list(backed.var.index) == list(expected.var.index)
        assert list(backed.obs["cell_type"]) == list(expected.obs["cell_type"])


@pytest.mark.parametrize("change", ["source", "damage"])
def test_a_file_that_does_not_fit_the_source_is_written_again(
    matrix: sparse.csc_matrix, tmp_path: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    path, cache = write(matrix, tmp_path), tmp_path / "cache"
    first = convert_to_rows(StoredMatrix(path, "X"), cache).file.path
    expected = matrix.tocsr()
    if change == "source":
        expected = 2 * expected
        path.unlink()
        write(2 * matrix, tmp_path)
        os.utime(path, (1, 1))
    else:
        whole = first.read_bytes()
        first.unlink()
        first.write_bytes(whole[: len(whole) // 2])
    again = convert_to_rows(StoredMatrix(path, "X"), cache)
    assert ("cannot be read" in caplog.text) == (change == "damage")
    assert (again.file.path == first) == (change == "damage")
    assert (again.read(slice(None)) != expected).nnz == 0


def test_a_damaged_source_is_named_and_leaves_no_file(matrix: sparse.csc_matrix, tmp_path: Path) -> None:
    path = write(matrix, tmp_path)
    with h5py.File(path, "r+") as file:
        file["X/indices"][300] = N_CELLS
    with pytest.raises(ValueError, match=r"cells\.h5ad: X has values in rows \d+ to 200 of columns 0 to 69, but only 200 rows"):
        convert_to_rows(StoredMatrix(path, "X"), tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


KILLED = """
from pathlib import Path
import scalex.h5ad.block_writer
import scalex.h5ad.csc_to_csr as by_rows

by_rows.BlockWriter.append = die
by_rows.convert_to_rows(by_rows.StoredMatrix("{}", "X"), Path("cache"))
"""


def test_files_of_a_killed_process_are_not_used(matrix: sparse.csc_matrix, tmp_path: Path) -> None:
    path, cache = write(matrix, tmp_path), tmp_path / "cache"
    Child(KILLED.format(path), cwd=tmp_path).end(-signal.SIGKILL)
    stored = convert_to_rows(StoredMatrix(path, "X"), cache)
    assert (stored.read(slice(None)) != matrix.tocsr()).nnz == 0
