"""The scores of each domain, compared with plain loops over cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray

from scalex.metrics import kept_neighbors, scores_by_domain


def measure_entropy(cells: NDArray[np.float32], domain: NDArray[np.str_], n_neighbors: int) -> NDArray[np.float64]:
    """Return the entropy of the domains among each cell's nearest others."""
    names, counts = np.unique(domain, return_counts=True)
    found = []
    for i in range(len(cells)):
        order = [j for j in np.argsort(((cells - cells[i]) ** 2).sum(1)) if j != i][:n_neighbors]
        share = np.array([np.mean(domain[order] == name) for name in names]) / counts
        share /= share.sum()
        found.append(-sum(p * np.log(p) for p in share if p > 0) / np.log(len(names)))
    return np.array(found)


@pytest.fixture
def cells() -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.str_]]:
    """Return coordinates before and after, and domains. Before, domain c lies apart; after, all are mixed but a part of b."""
    rng = np.random.default_rng(0)
    domain = np.repeat(["b", "a", "c"], [150, 120, 60])
    after = rng.normal(size=(330, 3)).astype(np.float32)
    before = after + np.where(domain == "c", 20, 0)[:, None].astype(np.float32)
    after[:50] += 30
    return before, after, domain


def test_each_domain_has_the_means_of_its_cells(cells: tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.str_]]) -> None:
    before, after, domain = cells
    table = scores_by_domain(after, pd.Categorical(domain, categories=["c", "unused", "b", "a"]), before)
    assert list(table.index) == ["c", "b", "a"]
    assert list(table["cells"]) == [60, 150, 120]
    kept = kept_neighbors(before, after, domain)
    for name, values in (
        ("inputs", measure_entropy(before, domain, 100)),
        ("latents", measure_entropy(after, domain, 100)),
        ("kept", kept),
    ):
        np.testing.assert_allclose(table[name], [values[domain == one].mean() for one in table.index], rtol=1e-5)
    assert table["permuted"].nunique() == 1
    assert table["permuted"].iloc[0] > 0.95
    assert table.loc["c", "inputs"] < 0.7 < table.loc["c", "latents"]


def test_one_domain_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two domains"):
        scores_by_domain(np.zeros((30, 2), np.float32), pd.Categorical(["a"] * 30), np.zeros((30, 2), np.float32))
