"""Markers and pseudobulk as outputs of a training, through the command."""

from __future__ import annotations

import re
from pathlib import Path

import anndata as ad
import matplotlib.image as mpimg
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from commands import Done, run_command

from scalex import AnnDataSource
from scalex.genes import find_markers, make_pseudobulk

SETTINGS = [
    "dataset.path=cells.h5ad", "dataset.batch_key=batch", "model=small", "model.n_hidden=16", "model.max_steps=30",
    "preprocess.min_features=50", "preprocess.n_top_features=200", "max_cells=10000",
]  # fmt: skip


@pytest.fixture
def cells(demo: AnnData, tmp_path: Path) -> AnnData:
    """Write cells of three domains, which are donors, and two conditions."""
    demo.obs["stim"] = pd.Categorical(np.where(np.arange(300) % 2 == 0, "no", "yes"))
    demo.write_h5ad(tmp_path / "cells.h5ad")
    return demo


def train(folder: Path, *settings: str) -> Done:
    return run_command("train.py", *SETTINGS, *settings, cwd=folder)


@pytest.mark.parametrize("backed", [False, True])
def test_a_training_writes_markers_and_sums(cells: AnnData, tmp_path: Path, backed: bool) -> None:
    done = train(
        tmp_path, "callbacks=[checkpoint,latent_export,scores,markers,pseudobulk]", "callbacks.pseudobulk.condition=stim",
        "callbacks.pseudobulk.min_cells=3", "callbacks.markers.n_features=7", f"dataset.backed={str(backed).lower()}", "output=run",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    run = ad.read_h5ad(tmp_path / "run" / "adata.h5ad")
    found = pd.read_csv(tmp_path / "run" / "markers.csv", dtype={"group": str})
    if not backed:
        expected = find_markers(run, n_features=7)
        assert found["feature"].tolist() == expected["feature"].tolist()
        np.testing.assert_allclose(found["auroc"], expected["auroc"], rtol=1e-3)
        np.testing.assert_array_equal(found["domains_higher"], expected["domains_higher"])
    assert set(found.groupby("group").size()) == {7}
    assert mpimg.imread(tmp_path / "run" / "markers.png").shape[0] > 100
    sums = ad.read_h5ad(tmp_path / "run" / "pseudobulk.h5ad")
    kept = cells[run.obs_names].copy()
    kept.obs = run.obs
    by_hand = make_pseudobulk(AnnDataSource(path=kept), label="leiden", sample="domain", condition="stim", min_cells=3)
    np.testing.assert_array_equal(sums.X, by_hand.X)
    assert list(sums.obs_names) == list(by_hand.obs_names)
    assert {"leiden", "domain", "stim", "psbulk_cells"} <= set(sums.obs)
    log = (tmp_path / "run" / "log.txt").read_text()
    assert "The p-values of markers are no tests: the clusters were found in the same cells" in log


def test_markers_of_cells_in_files_are_those_of_cells_in_memory(cells: AnnData, tmp_path: Path) -> None:
    tables = []
    for backed in ("false", "true"):
        settings = ("callbacks=[latent_export,markers]", "callbacks.markers.groupby=cell_type", f"dataset.backed={backed}")
        assert train(tmp_path, *settings, f"output=run_{backed}").returncode == 0
        tables.append((tmp_path / f"run_{backed}" / "markers.csv").read_text())
    assert tables[0] == tables[1]


def test_markers_of_clusters_need_no_other_output(cells: AnnData, tmp_path: Path) -> None:
    assert train(tmp_path, "callbacks=[latent_export,markers]", "output=run").returncode == 0
    assert "leiden" in ad.read_h5ad(tmp_path / "run" / "adata.h5ad").obs
    assert (tmp_path / "run" / "markers.csv").exists()


def test_sums_of_clusters_need_no_other_output(cells: AnnData, tmp_path: Path) -> None:
    done = train(tmp_path, "callbacks=[latent_export,pseudobulk]", "max_cells=150", "output=run")
    assert done.returncode == 0, done.stderr
    cluster = ad.read_h5ad(tmp_path / "run" / "adata.h5ad").obs["leiden"]
    assert cluster.notna().all()
    sums = ad.read_h5ad(tmp_path / "run" / "pseudobulk.h5ad")
    assert sums.obs["psbulk_cells"].sum() > 200
    assert set(sums.obs["leiden"]) <= set(cluster)


def test_markers_of_many_cells_are_those_of_a_sample(cells: AnnData, tmp_path: Path) -> None:
    done = train(tmp_path, "callbacks=[latent_export,markers]", "callbacks.markers.max_cells=120", "output=run")
    assert done.returncode == 0
    log = (tmp_path / "run" / "log.txt").read_text()
    n_cells = int(re.search(r"Markers of the groups in obs\['leiden'\], (\d+) cells", log)[1])
    assert 115 <= n_cells <= 125
    assert ad.read_h5ad(tmp_path / "run" / "adata.h5ad").obs["leiden"].notna().all()


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        (
            "callbacks.markers.groupby=type",
            "callbacks.markers.groupby='type' is not in obs. Columns: batch, cell_type, path, stim, leiden, domain.",
        ),
        ("callbacks.pseudobulk.label=type", "callbacks.pseudobulk.label='type' is not in obs. Columns: "),
        ("callbacks.pseudobulk.sample=donor", "callbacks.pseudobulk.sample='donor' is not in obs. Columns: "),
        ("callbacks.pseudobulk.condition=treated", "callbacks.pseudobulk.condition='treated' is not in obs. Columns: "),
    ],
)
def test_an_unknown_column_is_told_before_the_training(cells: AnnData, tmp_path: Path, setting: str, message: str) -> None:
    done = train(tmp_path, "callbacks=[checkpoint,latent_export,scores,markers,pseudobulk]", setting, "output=run")
    assert done.returncode == 1
    assert message in done.stderr
    assert "Trains" not in done.stderr


def test_values_that_are_no_counts_are_told_before_the_training(cells: AnnData, tmp_path: Path) -> None:
    cells.X = cells.X * np.float32(0.37)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    done = train(tmp_path, "callbacks=[latent_export,pseudobulk]", "callbacks.pseudobulk.label=cell_type", "output=run")
    assert done.returncode == 1
    assert (
        "callbacks.pseudobulk needs counts, and the values that are trained on are others. Name the matrix with the counts" in done.stderr
    )
    assert "Trains" not in done.stderr


def test_a_training_is_not_lost_for_want_of_groups(cells: AnnData, tmp_path: Path) -> None:
    settings = ("callbacks=[latent_export,markers,pseudobulk]", "callbacks.markers.groupby=stim", "callbacks.pseudobulk.min_cells=9999")
    cells.obs["stim"] = pd.Categorical(["no"] * 300)
    cells.write_h5ad(tmp_path / "cells.h5ad")
    done = train(tmp_path, *settings, "callbacks.pseudobulk.label=stim", "output=run")
    assert done.returncode == 0
    assert "No markers: groupby='stim': markers need two groups of 10 cells or more, and there are 1." in done.stderr
    assert "No pseudobulk: No group has 9999 cells or more (min_cells); the largest has" in done.stderr
    assert (tmp_path / "run" / "adata.h5ad").exists()
    assert not (tmp_path / "run" / "pseudobulk.h5ad").exists()
