"""Tests with files of real cells, with different features or without labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from anndata import AnnData
from sklearn.neighbors import NearestNeighbors

import scalex

LINES = ["celllines_celseq2", "celllines_dropseq", "celllines_10x5cl"]


def predict_types(adata: AnnData) -> np.ndarray:
    """Return, for each cell, the most frequent type of the nearest 15 cells of other domains."""
    domain, label = adata.obs["domain"].to_numpy(str), adata.obs["cell_type"].to_numpy(str)
    found = np.empty(adata.n_obs, label.dtype)
    for own in np.unique(domain):
        others = np.flatnonzero(domain != own)
        index = NearestNeighbors(n_neighbors=15).fit(adata.obsm["latent"][others])
        near = index.kneighbors(adata.obsm["latent"][domain == own], return_distance=False)
        names, codes = np.unique(label[others], return_inverse=True)
        counts = np.apply_along_axis(np.bincount, 1, codes[near], minlength=len(names))
        found[domain == own] = names[counts.argmax(1)]
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("join", "n_features"), [("inner", 1761), ("outer", 28197)])
def test_cell_lines_of_three_files_with_different_features_are_integrated(
    find_real: Callable[[str], Path], tmp_path: Path, caplog: pytest.LogCaptureFixture, join: Any, n_features: int
) -> None:
    source = scalex.AnnDataSource(path=[find_real(f"{name}.h5ad") for name in LINES], join=join)
    cells = source.open()
    assert len(cells.var) == n_features
    assert cells.var["n_sources"].eq(3).sum() == 1761
    assert list(cells.domain.categories) == sorted(LINES)
    is_lacking = "celllines_10x5cl lacks 93 % of the joined features" in caplog.text
    assert is_lacking == (join == "outer")
    if join == "outer":
        return
    options: dict[str, Any] = {"n_top_features": 800, "max_iteration": 300, "lr": 1e-3, "ignore_umap": True}
    adata = scalex.SCALEX([find_real(f"{name}.h5ad") for name in LINES], **options)
    # Lines of a single file have no match in the others.
    shared = adata.obs["cell_type"].isin(["H1975", "H2228", "HCC827"]).to_numpy()
    assert (predict_types(adata) == adata.obs["cell_type"].to_numpy(str))[shared].mean() > 0.9


def test_cells_without_labels_have_only_scores_without_labels(find_real: Callable[[str], Path], tmp_path: Path) -> None:
    options: dict[str, Any] = {"batch_name": "batch", "n_obs": 400, "max_iteration": 20, "ignore_umap": True, "assess": True}
    adata = scalex.SCALEX(find_real("hemato_tusi.h5ad"), outdir=tmp_path / "run", **options)
    scores = json.loads((tmp_path / "run" / "metrics.json").read_text())
    # The silhouette is that of the clusters.
    assert set(scores) == set(adata.uns["scalex"]["scores"])
    expected = {"entropy_mixing", "mixed", "shared", "kept", "kept_clusters", "silhouette", "biology", "total"}
    assert set(scores) == expected | {"entropy_mixing_inputs", "entropy_mixing_permuted"}
