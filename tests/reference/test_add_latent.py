from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scalex
from scalex.reference.add_latent import add_latent


@pytest.fixture(scope="module")
def cells() -> AnnData:
    cells = scalex.demo_cells(200, 400, 2)
    cells.layers["counts"] = cells.X.copy()
    cells.obsm["spatial"] = np.arange(400.0).reshape(200, 2)
    cells.uns["batch_colors"] = np.array(["red", "blue"])
    return cells


@pytest.fixture(scope="module")
def folder(cells: AnnData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run") / "run"
    detected = np.sort(np.diff(cells.X.indptr))
    scalex.SCALEX(cells, outdir=folder, min_features=int(detected[20]), max_iteration=3, ignore_umap=True, show=False)
    return folder


def test_kept_cells_keep_what_they_had_and_get_what_the_run_adds(cells: AnnData, folder: Path) -> None:
    result = ad.read_h5ad(folder / "adata.h5ad")
    shuffled = cells[::-1].copy()
    for run in (folder, str(folder), result):
        joined = add_latent(shuffled, run)
        assert joined.n_obs == result.n_obs < cells.n_obs
        assert joined.n_vars == cells.n_vars
        assert list(joined.obs_names) == [name for name in shuffled.obs_names if name in result.obs_names]
        np.testing.assert_array_equal(joined.obsm["latent"], result[joined.obs_names].obsm["latent"])
        np.testing.assert_array_equal(joined.obsm["spatial"], cells[joined.obs_names].obsm["spatial"])
        np.testing.assert_array_equal(joined.layers["counts"].toarray(), cells[joined.obs_names].X.toarray())
        assert list(joined.uns["batch_colors"]) == ["red", "blue"]
        # pandas 3 reads text of its own type.
        expected = result[joined.obs_names].obs["domain"]
        pd.testing.assert_series_equal(joined.obs["domain"].astype(expected.dtype), expected)
    assert "latent" not in shuffled.obsm


def test_cells_of_another_run_are_refused(cells: AnnData, folder: Path) -> None:
    other = cells.copy()
    other.obs_names = [f"other{i}" for i in range(other.n_obs)]
    with pytest.raises(ValueError, match=r"No cell of adata is in the run\. Names in adata: other0, other1, .*; in the run: cell"):
        add_latent(other, folder)
    other.obs_names = ["same"] * other.n_obs
    with pytest.raises(ValueError, match="names of the cells in adata are not unique"):
        add_latent(other, folder)
    with pytest.raises(FileNotFoundError, match="no such folder"):
        add_latent(cells, folder / "absent")
