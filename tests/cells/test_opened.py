"""AnnData objects that were opened with ``backed="r"``, whose matrix stays in a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from conftest import Trained
from tables import assert_same_table

import scalex
from scalex.cells import AnnDataSource, BackedCells, InMemoryCells


@pytest.fixture
def path(demo: AnnData, tmp_path: Path) -> Path:
    demo.layers["double"] = demo.X * 2
    demo.write_h5ad(tmp_path / "demo.h5ad")
    return tmp_path / "demo.h5ad"


@pytest.mark.parametrize("backed", [False, True])
@pytest.mark.parametrize("mode", ["r", "r+"])
def test_the_matrix_comes_from_the_file_and_the_annotation_from_the_object(path: Path, demo: AnnData, backed: bool, mode: Any) -> None:
    opened = ad.read_h5ad(path, backed=mode)
    opened.obs["new"] = pd.Categorical([f"d{i % 2}" for i in range(300)])
    cells = AnnDataSource(path=opened, batch_key="new", backed=backed).open()
    assert isinstance(cells, BackedCells if mode == "r" else BackedCells | InMemoryCells)
    assert list(cells.domain.categories) == ["d0", "d1"]
    assert list(cells.obs.index) == list(demo.obs_names)
    np.testing.assert_array_equal(cells.read(slice(10, 50)).toarray(), demo.X[10:50].toarray())
    assert "new" in cells.read_obs(slice(0, 3))


def test_a_list_is_joined_on_disk(path: Path, demo: AnnData, tmp_path: Path) -> None:
    demo[:100, ::-1].copy().write_h5ad(tmp_path / "other.h5ad")
    opened = [ad.read_h5ad(path, backed="r"), ad.read_h5ad(tmp_path / "other.h5ad", backed="r")]
    found = AnnDataSource(path=opened, source_key="file").open()
    assert isinstance(found, BackedCells)
    expected = AnnDataSource(path=[source.to_memory() for source in opened], source_key="file").open()
    np.testing.assert_array_equal(found.read(slice(None)).toarray(), expected.read(slice(None)).toarray())
    assert_same_table(found.obs, expected.obs)
    # Joined with cells in memory, they are read into memory.
    mixed = AnnDataSource(path=[opened[0], opened[1].to_memory()], source_key="file").open()
    assert isinstance(mixed, InMemoryCells)
    np.testing.assert_array_equal(mixed.read(slice(None)).toarray(), expected.read(slice(None)).toarray())


@pytest.mark.parametrize("options", [{}, {"layer": "double"}])
def test_the_rows_of_a_view_are_read(path: Path, demo: AnnData, options: dict[str, Any]) -> None:
    rows = np.arange(5, 120, 3)
    cells = AnnDataSource(path=ad.read_h5ad(path, backed="r")[rows, 10:], batch_key="batch", **options).open()
    assert isinstance(cells, InMemoryCells)
    factor = 2 if options else 1
    np.testing.assert_array_equal(cells.matrix.toarray(), demo.X[rows, 10:].toarray() * factor)


def test_nothing_is_cached_because_the_annotation_may_have_changed(path: Path, tmp_path: Path) -> None:
    cells = AnnDataSource(path=ad.read_h5ad(path, backed="r"), backed=True, cache=tmp_path / "cache").open()
    assert isinstance(cells, BackedCells)
    assert cells.cache is None


def test_opened_cells_can_be_trained_on_and_projected(path: Path, demo: AnnData, trained: Trained, tmp_path: Path) -> None:
    adata = scalex.SCALEX(ad.read_h5ad(path, backed="r"), min_features=0, max_iteration=5, ignore_umap=True, outdir=tmp_path / "run")
    assert adata.obsm["latent"].shape == (300, 10)
    trained.query.write_h5ad(tmp_path / "query.h5ad")
    reference = scalex.Reference.load(trained.folder)
    opened = ad.read_h5ad(tmp_path / "query.h5ad", backed="r")
    np.testing.assert_array_equal(reference.embed(opened), reference.embed(trained.query))
    np.testing.assert_array_equal(reference.embed(opened[20:30]), reference.embed(trained.query)[20:30])
    assert scalex.SCALEX([opened[:20], opened[20:]], projection=trained.folder, repeat=True, show=False).n_obs == opened.n_obs
