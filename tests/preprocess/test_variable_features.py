from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse

from scalex.cells import AnnDataSource
from scalex.preprocess import RnaRecipe
from scalex.preprocess.statistics import FeatureStatistics
from scalex.preprocess.variable_features import choose_highly_variable


def normalize(adata: AnnData, min_features: int = 0) -> AnnData:
    adata = adata.copy()
    sc.pp.filter_cells(adata, min_genes=min_features)
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.filter_genes(adata, min_cells=3)
    return adata


def choose_by_scanpy(adata: AnnData, n_top: int, batch_key: str | None) -> set[str]:
    adata = adata.copy()
    sc.pp.log1p(adata)
    sc.pp.highly_variable_genes(adata, n_top_genes=n_top, flavor="seurat", batch_key=batch_key)
    return set(adata.var_names[adata.var["highly_variable"]])


def choose(adata: AnnData, n_top: int, batch_key: str | None) -> set[str]:
    domain = adata.obs[batch_key].cat.codes.to_numpy().astype(np.int64) if batch_key else np.zeros(adata.n_obs, np.int64)
    statistics = FeatureStatistics.of(adata.X, domain, int(domain.max()) + 1)
    positions = choose_highly_variable(statistics, adata.var_names, n_top)
    assert (np.diff(positions) > 0).all()
    return set(adata.var_names[positions])


@pytest.mark.parametrize("batch_key", ["batch", "cell_type", None])
@pytest.mark.parametrize("n_top", [1, 50, 200, 499])
def test_the_choice_for_demo_cells_is_that_of_scanpy(demo: AnnData, n_top: int, batch_key: str | None) -> None:
    cells = normalize(demo)
    found = choose(cells, n_top, batch_key)
    assert len(found) == min(n_top, cells.n_vars)
    assert found == choose_by_scanpy(cells, n_top, batch_key)


@pytest.mark.parametrize("name", ["celllines_mixology.h5ad", "pancreas_celseq_indrop.h5ad"])
def test_the_choice_for_real_cells_is_that_of_scanpy(find_real: Callable[[str], Path], name: str) -> None:
    adata = ad.read_h5ad(find_real(name))
    cells = normalize(adata, min_features=100)
    fitted = RnaRecipe(min_features=100, keep_mt=True).fit(AnnDataSource(path=adata, batch_key="batch").open())
    assert set(fitted.preprocessor.features) == choose_by_scanpy(cells, 2000, "batch")
    assert choose(cells, 500, "batch") == choose_by_scanpy(cells, 500, "batch")


def test_the_choice_among_features_of_one_domain_is_that_of_scanpy(demo: AnnData) -> None:
    values = demo.X.toarray()
    values[(demo.obs["batch"] == "domain0").to_numpy(), :60] = 0
    values[(demo.obs["batch"] != "domain2").to_numpy(), 60:120] = 0
    demo.X = sparse.csr_matrix(values)
    cells = normalize(demo)
    assert choose(cells, 100, "batch") == choose_by_scanpy(cells, 100, "batch")


def test_all_features_are_chosen_if_there_are_fewer(demo: AnnData) -> None:
    cells = normalize(demo)
    assert choose(cells, 10_000, "batch") == set(cells.var_names)


def test_the_choice_does_not_depend_on_the_order_of_features(demo: AnnData) -> None:
    cells = normalize(demo)
    # These features are equal, so that only names can break the tie.
    values = cells.X.toarray()
    values[:, 10:20] = values[:, 10:11]
    cells.X = sparse.csr_matrix(values)
    shuffled = cells[:, np.random.default_rng(0).permutation(cells.n_vars)].copy()
    for n_top in range(20, 400, 20):
        assert choose(cells, n_top, "batch") == choose(shuffled, n_top, "batch")


@pytest.fixture
def demo_with_tiny_domain(demo: AnnData) -> AnnData:
    """Return demo cells of which six form a domain of their own, with other features."""
    demo.obs["batch"] = demo.obs["batch"].cat.add_categories("tiny")
    tiny = np.arange(0, 300, 50)
    demo.obs.iloc[tiny, demo.obs.columns.get_loc("batch")] = "tiny"
    values = demo.X.toarray()
    values[tiny] = np.random.default_rng(0).poisson(np.random.default_rng(1).gamma(0.3, 20, (6, 500)))
    demo.X = sparse.csr_matrix(values)
    return demo


@pytest.mark.parametrize(("min_cell_per_batch", "votes"), [(7, False), (6, True)])
def test_domains_with_too_few_cells_do_not_vote(demo_with_tiny_domain: AnnData, min_cell_per_batch: int, votes: bool) -> None:
    recipe = RnaRecipe(min_features=0, n_top_features=100, min_cell_per_batch=min_cell_per_batch)
    fitted = recipe.fit(AnnDataSource(path=demo_with_tiny_domain, batch_key="batch").open())
    cells = normalize(demo_with_tiny_domain)
    tiny = cells.obs["batch"] == "tiny"
    without, together = choose_by_scanpy(cells[~tiny], 100, "batch"), choose_by_scanpy(cells, 100, "batch")
    assert without != together
    assert set(fitted.preprocessor.features) == (together if votes else without)
    assert len(fitted.rows) == 300


def test_all_cells_vote_together_if_every_domain_has_too_few(demo: AnnData) -> None:
    fitted = RnaRecipe(min_features=0, n_top_features=100, min_cell_per_batch=1000).fit(AnnDataSource(path=demo).open())
    assert set(fitted.preprocessor.features) == choose_by_scanpy(normalize(demo), 100, None)


def test_constant_features_and_a_domain_of_one_cell_are_allowed() -> None:
    values = sparse.csr_matrix(np.array([[1, 5, 0], [1, 0, 0], [1, 2, 3]], np.float32))
    statistics = FeatureStatistics.of(values, np.array([0, 0, 1]), 2)
    assert list(choose_highly_variable(statistics, pd.Index(list("abc")), 1)) == [1]
