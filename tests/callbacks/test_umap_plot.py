from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData

from scalex.callbacks.umap_plot import draw_umap


def test_each_column_has_a_panel_with_all_cells() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"domain": pd.Categorical(rng.choice(["a", "b"], 50)), "leiden": pd.Categorical(rng.choice(["0", "1"], 50))})
    obs.index = obs.index.astype(str)
    adata = AnnData(np.zeros((50, 1), np.float32), obs=obs, obsm={"X_umap": rng.normal(size=(50, 2))})
    figure = draw_umap(adata, ["domain", "leiden"])
    assert [axis.get_title() for axis in figure.axes] == ["domain", "leiden"]
    for axis in figure.axes:
        drawn = np.vstack([collection.get_offsets() for collection in axis.collections])
        np.testing.assert_allclose(np.sort(drawn[np.isfinite(drawn).all(1)], axis=0), np.sort(adata.obsm["X_umap"], axis=0))
    assert "domain_colors" not in adata.uns
    plt.close(figure)


def test_a_column_of_many_values_has_no_legend() -> None:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"few": pd.Categorical(rng.integers(0, 5, 200).astype(str)), "many": pd.Categorical(np.arange(200).astype(str))})
    obs.index = obs.index.astype(str)
    figure = draw_umap(AnnData(obs=obs, obsm={"X_umap": rng.normal(size=(200, 2))}), ["few", "many"])
    assert [axis.get_title() for axis in figure.axes] == ["few", "many (200)"]
    assert [axis.get_legend() is not None for axis in figure.axes] == [True, False]
    plt.close(figure)
