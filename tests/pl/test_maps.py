from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import scalex
from scalex.pl.colors import COLORS, choose_styles
from scalex.pl.panels import make_panels, set_limits


@pytest.fixture(autouse=True)
def _close_figures() -> Iterator[None]:
    yield
    plt.close("all")


def make_cells(n_cells: int, **columns: Any) -> AnnData:
    obs = pd.DataFrame(columns, index=[str(n) for n in range(n_cells)])
    return AnnData(obs=obs, obsm={"X_umap": np.random.default_rng(0).normal(size=(n_cells, 2))})


def list_drawn(axis: plt.Axes) -> np.ndarray:
    drawn = np.vstack([np.asarray(collection.get_offsets()) for collection in axis.collections])
    return drawn[np.lexsort(drawn.T)]


def test_each_column_has_a_panel_with_all_cells() -> None:
    rng = np.random.default_rng(0)
    adata = make_cells(50, domain=pd.Categorical(rng.choice(["a", "b"], 50)), leiden=pd.Categorical(rng.choice(["0", "1"], 50)))
    axes = scalex.pl.umap(adata)
    assert [axis.get_title() for axis in axes] == ["domain", "leiden"]
    expected = adata.obsm["X_umap"][np.lexsort(adata.obsm["X_umap"].T)]
    for axis in axes:
        np.testing.assert_allclose(list_drawn(axis), expected)
    assert "domain_colors" not in adata.uns
    # The names of the clusters stand among their cells.
    assert {text.get_text() for text in axes[1].texts} >= {"0", "1"}


def test_panels_keep_their_size_whatever_the_legend_says() -> None:
    few = make_panels([["a", "b"]])[0]
    many = make_panels([["a", "b"], [f"a type with a long name, {n}" for n in range(40)]])
    sizes = [(axis.get_position().size * axis.figure.get_size_inches()).round(6).tolist() for axis in (few, *many)]  # type: ignore[union-attr]
    assert sizes == [sizes[0]] * 3


def test_the_legend_lies_within_the_figure_and_below_the_panel() -> None:
    names = pd.Categorical([f"type {n} of some tissue" for n in range(45)] * 2)
    axis = scalex.pl.umap(make_cells(90, cell_type=names), "cell_type")[0]
    figure = axis.figure
    figure.canvas.draw()
    box = axis.get_legend().get_window_extent()
    assert box.y1 < axis.get_window_extent().y0
    assert box.y0 > 0
    assert box.x1 < figure.bbox.x1


def test_a_column_of_many_values_has_no_legend() -> None:
    adata = make_cells(200, few=pd.Categorical(np.arange(200) % 5), many=pd.Categorical(np.arange(200).astype(str)))
    axes = scalex.pl.umap(adata, ["few", "many"])
    assert [axis.get_title() for axis in axes] == ["few", "many (200)"]
    assert [axis.get_legend() is not None for axis in axes] == [True, False]


def test_numbers_get_a_bar_and_missing_values_do_not_change_it() -> None:
    values = np.linspace(0, 1, 100)
    values[3] = np.nan
    axis = scalex.pl.umap(make_cells(100, score=values), "score")[0]
    assert axis.get_legend() is None
    assert axis.collections[0].get_clim() == pytest.approx((0, 0.99), abs=0.01)


def test_groups_differ_in_colour_or_marker() -> None:
    styles = choose_styles([str(n) for n in range(60)])
    assert len(set(styles.values())) == 60
    assert len(set(COLORS)) == 20
    assert choose_styles(["a", "unknown"])["unknown"].color == "#000000"


def test_a_few_far_cells_do_not_shrink_the_others() -> None:
    points = np.random.default_rng(0).normal(size=(5000, 2))
    axis = plt.subplots()[1]
    set_limits(axis, points)
    near = np.diff(axis.get_xlim())[0]
    assert not axis.texts
    axis = plt.subplots()[1]
    set_limits(axis, np.concatenate([points, [[500.0, 300.0]] * 3]))
    assert np.diff(axis.get_xlim())[0] < 1.2 * near
    assert re.match("[1-9][0-9]* cells beyond the edge", axis.texts[0].get_text())


def test_new_cells_lie_over_those_of_the_reference() -> None:
    kinds = pd.Categorical(["reference"] * 60 + ["query"] * 40)
    adata = make_cells(100, projection=kinds, domain=pd.Categorical(["a"] * 50 + ["b"] * 50), distance=np.ones(100))
    axes = scalex.pl.projection(adata)
    assert [axis.get_title() for axis in axes] == ["domain", "distance"]
    assert [len(np.asarray(one.get_offsets())) for one in axes[0].collections] == [60, 40]
    assert [text.get_text() for text in axes[0].get_legend().get_texts()] == ["reference", "b"]


def test_what_is_missing_is_named() -> None:
    adata = make_cells(30, domain=pd.Categorical(["a"] * 30))
    with pytest.raises(KeyError, match=r"'sample' is not in obs\. Columns: domain"):
        scalex.pl.umap(adata, "sample")
    with pytest.raises(KeyError, match="this is no result of a projection"):
        scalex.pl.projection(adata)
    with pytest.raises(KeyError, match="'leiden' is not in obs"):
        scalex.pl.composition(adata)
    with pytest.raises(KeyError, match="input_pca"):
        scalex.pl.scores(AnnData(obs=adata.obs, obsm={"latent": np.zeros((30, 2))}))
    del adata.obsm["X_umap"]
    with pytest.raises(KeyError, match=r"scanpy\.tl\.umap"):
        scalex.pl.umap(adata)
