from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy import sparse
from sklearn.neighbors import NearestNeighbors
from tables import assert_same_table

from scalex.demo import DemoSource, demo_cells


@pytest.fixture(scope="module")
def cells() -> AnnData:
    return demo_cells(900, 800, 3)


@pytest.fixture(scope="module")
def pca(cells: AnnData) -> pd.DataFrame:
    """Return the principal components of the cells without integration."""
    cells = cells.copy()
    sc.pp.normalize_total(cells, target_sum=1e4)
    sc.pp.log1p(cells)
    sc.pp.pca(cells, n_comps=20)
    return pd.DataFrame(cells.obsm["X_pca"], index=cells.obs_names)


def test_the_same_seed_gives_the_same_cells() -> None:
    one, again, other = (demo_cells(60, 400, 2, seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(one.X.toarray(), again.X.toarray())
    assert_same_table(one.obs, again.obs)
    assert (one.X != other.X).nnz > 0


def test_the_global_random_state_neither_matters_nor_changes() -> None:
    np.random.seed(0)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = demo_cells(60, 400, 2)
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    np.random.seed(1)  # noqa: NPY002
    assert (one.X != demo_cells(60, 400, 2).X).nnz == 0


def test_values_are_positive_counts(cells: AnnData) -> None:
    assert isinstance(cells.X, sparse.csr_matrix)
    assert cells.X.dtype == np.float32
    assert cells.shape == (900, 800)
    assert (cells.X.data > 0).all()
    np.testing.assert_array_equal(cells.X.data, np.floor(cells.X.data))
    assert cells.obs_names.is_unique
    assert cells.var_names.is_unique


def test_counts_are_overdispersed(cells: AnnData) -> None:
    counts = cells[(cells.obs["batch"] == "domain0") & (cells.obs["cell_type"] == "beta")].X.toarray()
    share = counts / counts.sum(1, keepdims=True) * counts.sum(1).mean()
    mean, variance = share.mean(0), share.var(0, ddof=1)
    expressed = mean > 5
    # The negative binomial with dispersion 2 has the variance mean + mean^2 / 2.
    dispersion = np.median((variance[expressed] - mean[expressed]) / mean[expressed] ** 2)
    assert 0.35 < dispersion < 0.75


@pytest.mark.parametrize("n_domains", [1, 2, 3, 5])
def test_types_are_missing_where_documented(n_domains: int) -> None:
    obs = demo_cells(1000, 400, n_domains).obs
    table = pd.crosstab(obs["batch"], obs["cell_type"])
    names = [f"domain{d}" for d in range(n_domains)]
    assert list(table.index) == names
    everywhere = {name: set(names) for name in ("alpha", "beta", "gamma", "stem")}
    expected = everywhere | {"delta": set(names[:-1] or names), "rare": {names[0]}}
    assert {kind: set(table.index[table[kind] > 0]) for kind in table} == expected


def test_domains_are_separate_without_integration(cells: AnnData, pca: pd.DataFrame) -> None:
    domain = cells.obs["batch"].cat.codes.to_numpy()
    near = NearestNeighbors(n_neighbors=15).fit(pca).kneighbors(return_distance=False)
    own = (domain[near] == domain[:, None]).mean()
    chance = np.sum((np.bincount(domain) / len(domain)) ** 2)
    assert chance < 0.4
    assert own > 0.9


def test_types_are_separate_within_a_domain(cells: AnnData, pca: pd.DataFrame) -> None:
    own = cells.obs["batch"] == "domain0"
    kind = cells.obs.loc[own, "cell_type"].cat.codes.to_numpy()
    near = NearestNeighbors(n_neighbors=10).fit(pca[own]).kneighbors(return_distance=False)
    assert (kind[near] == kind[:, None]).mean() > 0.7


@pytest.mark.parametrize("domain", ["domain0", "domain1", "domain2"])
def test_stem_cells_lie_on_a_path_to_alpha(cells: AnnData, pca: pd.DataFrame, domain: str) -> None:
    own = cells.obs["batch"] == domain
    path = cells.obs.loc[own, "path"].dropna()
    assert np.diff([0, *np.sort(path), 1]).max() < 0.15
    quarters = pca.loc[path.index].groupby(np.floor(path * 4)).mean()
    alpha, beta = (pca[own & (cells.obs["cell_type"] == kind)].mean() for kind in ("alpha", "beta"))
    to_alpha = np.linalg.norm(quarters - alpha, axis=1)
    steps = np.linalg.norm(np.diff(quarters, axis=0), axis=1)
    assert (np.diff(to_alpha) < 0).all()
    assert to_alpha[-1] < to_alpha[0] / 2
    assert steps.max() < np.linalg.norm(quarters.iloc[0] - quarters.iloc[-1])
    assert to_alpha[-1] < np.linalg.norm(quarters.iloc[-1] - beta)


def test_only_stem_cells_have_a_position_on_the_path(cells: AnnData) -> None:
    path = cells.obs["path"]
    np.testing.assert_array_equal(path.notna(), cells.obs["cell_type"] == "stem")
    assert path.dropna().between(0, 1).all()


def test_domains_differ_in_depth(cells: AnnData) -> None:
    depth = pd.Series(cells.X.sum(1).A1, index=cells.obs_names).groupby(cells.obs["batch"], observed=True).median()
    assert depth["domain0"] > 1.3 * depth["domain1"] > 1.3**2 * depth["domain2"]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((9, 400, 1), "n_cells=9: a whole number of at least 10 is needed"),
        ((10, 399, 1), "n_features=399: a whole number of at least 400"),
        ((10, 400, 0), "n_domains=0: a whole number of at least 1"),
    ],
)
def test_too_small_sizes_are_an_error(sizes: tuple[int, int, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        demo_cells(*sizes)


def test_the_source_opens_the_same_cells() -> None:
    adata = demo_cells(60, 400, 2, seed=3)
    cells = DemoSource(n_cells=60, n_features=400, n_domains=2, seed=3).open()
    np.testing.assert_array_equal(cells.matrix.toarray(), adata.X.toarray())
    assert list(cells.domain) == list(adata.obs["batch"])
    assert list(cells.label) == list(adata.obs["cell_type"])
