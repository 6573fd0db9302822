from __future__ import annotations

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
from anndata import AnnData
from lightning import Callback, Trainer
from tables import assert_same_table

import scalex
from scalex.callbacks import Checkpoint, LatentExport, Scores, UmapPlot
from scalex.callbacks.result import Result
from scalex.cells import AnnDataSource
from scalex.metrics import kept_neighbors
from scalex.model.module import ScalexModule
from scalex.preprocess import RnaRecipe


def train(source: Any, folder: Path, *outputs: Callback, backed: bool, **options: Any) -> AnnData:
    trainer = Trainer(
        accelerator="cpu", max_steps=20, logger=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=[Checkpoint(folder), LatentExport(folder, **options), *outputs],
    )  # fmt: skip
    module = ScalexModule(n_latent=4, n_hidden=16, correct_at=[0.5])
    cells = AnnDataSource(path=source, batch_key="batch", backed=backed)
    return scalex.fit(cells, RnaRecipe(min_features=250, n_top_features=100), module, trainer, chunk_size=50)


@pytest.fixture
def file(demo: AnnData, tmp_path: Path) -> Path:
    demo.obs["text"] = [f"note {i}" for i in range(demo.n_obs)]
    demo.write_h5ad(tmp_path / "demo.h5ad")
    return tmp_path / "demo.h5ad"


@pytest.mark.parametrize("impute", [None, "domain1"])
def test_cells_in_a_file_are_written_like_cells_in_memory(file: Path, tmp_path: Path, impute: str | None) -> None:
    memory = train(file, tmp_path / "memory", backed=False, impute=impute)
    backed = train(file, tmp_path / "backed", backed=True, expression=True, impute=impute)
    assert backed.X is None
    assert backed.raw is None
    written = ad.read_h5ad(tmp_path / "backed" / "adata.h5ad")
    np.testing.assert_array_equal(written.X.toarray(), memory.X.toarray())
    np.testing.assert_array_equal(written.raw.X.toarray(), memory.raw.X.toarray())
    assert_same_table(written.raw.var, memory.raw.var)
    assert_same_table(written.var, memory.var)
    assert_same_table(written.obs, ad.read_h5ad(tmp_path / "memory" / "adata.h5ad").obs)
    # Only the order of training differs, not the components of the inputs.
    np.testing.assert_allclose(np.abs(written.obsm["input_pca"][:, :3]), np.abs(memory.obsm["input_pca"][:, :3]), atol=1e-3)
    np.testing.assert_array_equal(written.obsm["latent"], backed.obsm["latent"])
    # The coordinates are written, but not in memory.
    assert "input_pca" not in backed.obsm
    assert not (tmp_path / "backed" / ".input_pca").exists()
    assert ("impute" in written.layers) == (impute is not None)
    if impute is not None:
        expected = scalex.Reference.load(tmp_path / "backed").module.impute(written.obsm["latent"], np.full(written.n_obs, 1))
        # Products of blocks of another size are rounded differently on some processors.
        np.testing.assert_allclose(written.layers["impute"], expected, rtol=1e-5, atol=1e-6)


def test_without_expression_the_folder_is_a_reference(file: Path, tmp_path: Path) -> None:
    backed = train(file, tmp_path / "run", backed=True)
    written = ad.read_h5ad(tmp_path / "run" / "adata.h5ad")
    assert written.X is None
    assert written.raw is None
    assert written.shape == backed.shape
    reference = scalex.Reference.load(tmp_path / "run")
    kept = ad.read_h5ad(file)[written.obs_names].copy()
    np.testing.assert_array_equal(reference.embed(kept, batch_key="batch"), written.obsm["latent"])


def test_a_sample_of_many_cells_determines_umap_and_scores(file: Path, tmp_path: Path) -> None:
    outputs = [UmapPlot(tmp_path / "run", max_cells=100), Scores(tmp_path / "run", max_cells=100)]
    adata = train(file, tmp_path / "run", *outputs, backed=True)
    assert not adata.obs["leiden"].isna().any()
    assert np.isfinite(adata.obsm["X_umap"]).all()
    assert 0 <= adata.uns["scalex"]["scores"]["entropy_mixing"] <= 1
    assert "connectivities" not in adata.obsp
    assert (tmp_path / "run" / "umap.png").exists()


@pytest.mark.parametrize("backed", [False, True], ids=["memory", "file"])
@pytest.mark.parametrize("max_cells", [1000, 150], ids=["all", "a sample"])
def test_kept_neighbours_are_those_of_the_written_components(file: Path, tmp_path: Path, max_cells: int, *, backed: bool) -> None:
    adata = train(file, tmp_path / "run", Scores(tmp_path / "run", max_cells=max_cells), backed=backed)
    written = ad.read_h5ad(tmp_path / "run" / "adata.h5ad")
    rows = Result(written).sample(max_cells, 124).rows
    rows = np.arange(written.n_obs) if rows is None else rows
    before, latent = written.obsm["input_pca"][rows, :30], written.obsm["latent"][rows]
    kept = kept_neighbors(before, latent, written.obs["domain"].to_numpy()[rows])
    assert adata.uns["scalex"]["scores"]["kept"] == pytest.approx(np.nanmean(kept))


def test_scalex_returns_the_components_of_the_inputs(file: Path, tmp_path: Path) -> None:
    options: dict[str, Any] = {"backed": True, "min_features": 0, "max_iteration": 5, "ignore_umap": True}
    alone = scalex.SCALEX(str(file), **options)
    kept = scalex.SCALEX(str(file), outdir=tmp_path / "run", **options)
    np.testing.assert_array_equal(kept.obsm["input_pca"], alone.obsm["input_pca"])
