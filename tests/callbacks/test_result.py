from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from sklearn.metrics import adjusted_rand_score
from sklearn.neighbors import KNeighborsClassifier

from scalex.callbacks.result import Result, place_others
from scalex.metrics.clusters import add_clusters


@pytest.fixture
def result() -> Result:
    """Return a result of three types, and of two domains of which one is small."""
    rng = np.random.default_rng(0)
    kind = rng.integers(0, 3, 600)
    latent = (np.eye(3, 5)[kind] * 8 + rng.normal(size=(600, 5))).astype(np.float32)
    obs = pd.DataFrame({"domain": pd.Categorical(np.where(rng.random(600) < 0.1, "small", "large"))}, index=[f"c{i}" for i in range(600)])
    adata = AnnData(obs=obs, obsm={"latent": latent})
    return Result(adata, pd.Categorical(kind))


def test_few_cells_are_not_sampled(result: Result) -> None:
    sample = result.sample(600, 0)
    assert sample.cells is result.adata
    assert sample.rows is None
    before = result.adata.copy()
    place_others(result.adata, sample)
    assert list(before.obs) == list(result.adata.obs)


def test_a_sample_is_in_proportion_to_the_domains(result: Result, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        sample = result.sample(150, 0)
    assert "a sample of 150 of 600 cells" in caplog.text
    assert sample.rows is not None
    assert len(set(sample.rows)) == len(sample.rows) == 150
    whole = result.adata.obs["domain"].value_counts(normalize=True)
    found = sample.cells.obs["domain"].value_counts(normalize=True)
    assert abs(found["small"] - whole["small"]) < 0.01
    np.testing.assert_array_equal(sample.cells.obsm["latent"], result.adata.obsm["latent"][sample.rows])
    assert result.sample(150, 0) is sample


def test_neighbours_place_the_cells_outside_the_sample(result: Result) -> None:
    sample = result.sample(150, 0)
    add_clusters(sample.cells, n_neighbors=15, seed=0)
    sample.cells.obsm["X_umap"] = sample.cells.obsm["latent"][:, :2] * 3
    place_others(result.adata, sample)
    cluster = result.adata.obs["leiden"]
    assert (cluster.to_numpy()[sample.rows] == sample.cells.obs["leiden"].to_numpy()).all()
    np.testing.assert_array_equal(result.adata.obsm["X_umap"][sample.rows], sample.cells.obsm["X_umap"])
    assert "connectivities" not in result.adata.obsp
    expected = KNeighborsClassifier(15, weights="distance").fit(sample.cells.obsm["latent"], sample.cells.obs["leiden"])
    assert (expected.predict(result.adata.obsm["latent"]) == cluster).mean() > 0.95
    # The types are well separated, so each cluster belongs to one type.
    assert result.label is not None
    kind = pd.Series(result.label.codes)
    type_of_cluster = kind.groupby(cluster.to_numpy()).first()
    assert adjusted_rand_score(kind, cluster.map(type_of_cluster).to_numpy()) > 0.95


# The code runs in a separate process without numba's compiler, which takes a minute for the functions of pynndescent.
NEIGHBOURS = """
from functools import partial
import numpy as np
import scanpy as sc
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors
from scalex.metrics.clusters import add_clusters

sc.pp.neighbors = partial(sc.pp.neighbors, transformer="pynndescent")
latent = np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32)
adata = AnnData(obsm={"latent": latent})
add_clusters(adata, n_neighbors=5, seed=0)
nearest = NearestNeighbors(n_neighbors=5).fit(latent).kneighbors(latent, return_distance=False)
found = [set(adata.obsp["distances"][i].indices) | {i} for i in range(len(latent))]
print(np.mean([len(one & set(other)) / 5 for one, other in zip(found, nearest.tolist(), strict=True)]))
"""


def test_neighbours_of_many_cells_are_found_by_pynndescent() -> None:
    """Scanpy uses this package for more than 8,192 cells. Here it is told to use it for a few cells."""
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1"}
    done = subprocess.run([sys.executable, "-c", NEIGHBOURS], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) > 0.95
