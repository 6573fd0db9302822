"""Cells of zarr stores that are read in runs of rows: both formats, with and without shards, in folders and .zip files."""

from __future__ import annotations

import pickle
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import zarr
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse
from tables import assert_same_table

import scalex
from scalex.cells import AnnDataSource, BackedCells, InMemoryCells

# anndata warns about future defaults when it writes.
pytestmark = pytest.mark.filterwarnings("ignore:zarr v3 autosharding", "ignore:Writing zarr v2")

KINDS = ("format 2", "format 3", "shards", "zip")
ROWS: list[slice | NDArray[np.int64]] = [
    slice(None),
    slice(17, 60),
    slice(290, 400),
    slice(0, 0),
    np.array([3, 4, 90, 299]),
    np.arange(40, 70),
    np.array([], np.int64),
]


@pytest.fixture
def annotated(demo: AnnData) -> AnnData:
    """Demo cells with columns of several types in obs."""
    rng = np.random.default_rng(0)
    demo.obs["text"] = [f"note {i}" for i in range(300)]
    demo.obs["maybe"] = pd.array(rng.choice([True, False, None], 300), dtype="boolean")
    demo.obs["whole"] = pd.array([None if i % 3 == 0 else i for i in range(300)], dtype="Int64")
    demo.obs["stage"] = pd.Categorical(rng.choice(["late", "early"], 300), ["early", "late"], ordered=True)
    demo.obs["partly"] = pd.Categorical([None if i % 2 else "known" for i in range(300)])
    return demo


@pytest.fixture(params=KINDS)
def write(request: pytest.FixtureRequest) -> Callable[[AnnData, Path], Path]:
    """Return a function that writes an AnnData to a store of one kind, with small chunks, and returns its path."""

    def write_small_chunks(function: Any, group: Any, key: str, element: Any, dataset_kwargs: Any, **_: Any) -> None:
        options = {"shards": (20000,)} if request.param == "shards" else {}
        dense = isinstance(element, np.ndarray) and element.ndim == 2
        small = {"chunks": (100, 500)} if dense else {"chunks": (5000,), **options} if sparse.issparse(element) else {}
        function(group, key, element, dataset_kwargs={**dataset_kwargs, **small})

    def write(adata: AnnData, folder: Path) -> Path:
        path = folder / "cells.zarr"
        zarr_format: Literal[2, 3] = 2 if request.param == "format 2" else 3
        # anndata 0.12.0 encodes text by its setting, which 0.13 advises against.
        with warnings.catch_warnings(action="ignore"), ad.settings.override(zarr_write_format=zarr_format):
            group = zarr.open_group(path, mode="w", zarr_format=zarr_format)
            ad.experimental.write_dispatched(group, "/", adata, callback=write_small_chunks)
        if request.param != "zip":
            return path
        shutil.make_archive(str(path), "zip", path)
        return folder / "cells.zarr.zip"

    return write


def find_chunk(path: Path) -> Path:
    """Return a file with values of the matrix."""
    return next(file for file in (path / "X" / "data").rglob("*") if file.is_file() and file.suffix != ".json" and file.name[0] != ".")


def open_both(path: Any, **options: Any) -> tuple[BackedCells, InMemoryCells]:
    backed, in_memory = (AnnDataSource(path=path, backed=backed, **options).open() for backed in (True, False))
    assert isinstance(backed, BackedCells)
    assert isinstance(in_memory, InMemoryCells)
    return backed, in_memory


def assert_same(backed: BackedCells, in_memory: InMemoryCells) -> None:
    for rows in ROWS:
        found, expected = backed.read(rows), in_memory.read(rows)
        assert isinstance(found, sparse.csr_matrix)
        assert found.dtype == np.float32
        assert found.has_canonical_format
        np.testing.assert_array_equal(found.toarray(), expected.toarray())
        if isinstance(rows, slice):
            assert_same_table(backed.read_obs(rows), in_memory.read_obs(rows))
    assert_same_table(backed.var, in_memory.var, check_column_type=False)
    assert list(backed.domain) == list(in_memory.domain)


@pytest.mark.parametrize("dense", [False, True])
def test_cells_of_a_store_equal_cells_in_memory(
    annotated: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path], dense: bool
) -> None:
    if dense:
        annotated.X = annotated.X.toarray()
    expected = annotated.copy()
    path = write(annotated, tmp_path)
    backed, in_memory = open_both(path, batch_key="batch")
    assert_same(backed, in_memory)
    assert_same_table(backed.obs, expected.obs)
    assert_same(pickle.loads(pickle.dumps(backed)), in_memory)


def test_stores_and_files_are_joined(demo: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path]) -> None:
    demo[:100, ::-1].copy().write_h5ad(tmp_path / "file.h5ad")
    paths = [tmp_path / "file.h5ad", write(demo[100:].copy(), tmp_path)]
    assert_same(*open_both(paths, source_key="file"))
    backed, in_memory = open_both(paths, source_key="file", n_obs=90)
    np.testing.assert_array_equal(backed.read(slice(None)).toarray(), in_memory.read(slice(None)).toarray())
    assert_same_table(backed.obs, in_memory.obs)


@pytest.mark.parametrize("write", ["shards"], indirect=True)
def test_a_store_can_be_trained_on_and_projected(demo: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path]) -> None:
    demo.write_h5ad(tmp_path / "cells.h5ad")
    path = write(demo, tmp_path)
    options: dict[str, Any] = {"min_features": 0, "max_iteration": 5, "ignore_umap": True, "backed": True, "batch_name": "batch"}
    found, expected = (
        scalex.SCALEX(source, outdir=tmp_path / name, **options) for name, source in (("z", path), ("h", tmp_path / "cells.h5ad"))
    )
    np.testing.assert_array_equal(found.obsm["latent"], expected.obsm["latent"])
    reference = scalex.Reference.load(tmp_path / "z")
    np.testing.assert_array_equal(reference.embed(path), found.obsm["latent"])


def test_a_store_by_columns_is_kept_by_rows(demo: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path]) -> None:
    demo.X = sparse.csc_matrix(demo.X)
    path = write(demo, tmp_path)
    assert isinstance(AnnDataSource(path=path, backed=True).open(), InMemoryCells)
    backed = AnnDataSource(path=path, backed=True, cache=tmp_path / "cache", batch_key="batch").open()
    assert isinstance(backed, BackedCells)
    assert_same(backed, AnnDataSource(path=path, batch_key="batch").open())
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_changed_store_is_not_read(demo: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path]) -> None:
    path = write(demo, tmp_path)
    cells = AnnDataSource(path=path, backed=True).open()
    if path.is_dir():
        # zarr reads 0 from missing files.
        find_chunk(path).unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(OSError, match=r"cells\.zarr(\.zip)? changed while it was being read, .* do not change the file until the run ends"):
        cells.read(slice(0, 300))
    if path.is_dir():
        shutil.rmtree(path)
        with pytest.raises(OSError, match=r"cells\.zarr is gone .* Put it back"):
            cells.read_obs(slice(0, 5))


def test_missing_files_are_an_error_of_opening(demo: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path]) -> None:
    path = write(demo, tmp_path)
    if path.is_dir():
        find_chunk(path).unlink()
        with pytest.raises(ValueError, match=r"files of X/data are missing"):
            AnnDataSource(path=path, backed=True).open()


@pytest.mark.parametrize("write", ["format 3"], indirect=True)
def test_values_that_cannot_be_decoded_are_named(demo: AnnData, tmp_path: Path, write: Callable[[AnnData, Path], Path]) -> None:
    path = write(demo, tmp_path)
    chunk = find_chunk(path)
    chunk.write_bytes(b"\xff" * chunk.stat().st_size)
    cells = AnnDataSource(path=path, backed=True).open()
    with pytest.raises(OSError, match=r"cells\.zarr: X, rows 0 to 299 cannot be read \(.*\)\. The store is damaged"):
        cells.read(slice(None))
