from __future__ import annotations

import numpy as np
import pytest

from benchmarks.quality.atlas import simulate_atlas
from benchmarks.quality.sets import SETS, draw_few, make_cells

NAME = "pancreas_celseq_indrop"


@pytest.mark.parametrize(("uneven", "sizes"), [(False, [30, 30]), (True, [12, 48])])
def test_few_cells_are_drawn_by_domain(uneven: bool, sizes: list[int]) -> None:
    cells = make_cells(NAME, SETS[NAME])
    few, again, other = (draw_few(cells, 60, draw, uneven=uneven) for draw in (0, 0, 1))
    assert sorted(few.adata.obs["batch"].value_counts()) == sizes
    assert set(few.adata.obs_names) < set(cells.adata.obs_names)
    np.testing.assert_array_equal(few.adata.obs_names, again.adata.obs_names)
    assert set(few.adata.obs_names) != set(other.adata.obs_names)
    # Embeddings are stored by name.
    assert few.name == again.name != other.name


def test_an_atlas_has_types_that_differ_and_domains_that_lack_some() -> None:
    cells = simulate_atlas(3000, 12, 8, 300).adata
    assert cells.obs["batch"].nunique() == 8
    assert cells.obs["cell_type"].nunique() == 12
    # Values are counts, the same in each call.
    assert (cells.X.data == np.round(cells.X.data)).all()
    assert (cells.X != simulate_atlas(3000, 12, 8, 300).adata.X).nnz == 0
    lacking = (cells.obs.groupby(["batch", "cell_type"], observed=False).size() == 0).mean()
    assert 0.15 < lacking < 0.6
    # Within a domain, the mean expression of cells of one type is closer than that of two.
    own = cells[cells.obs["batch"] == cells.obs["batch"].value_counts().index[0]]
    half = np.arange(own.n_obs) % 2
    # Two halves of the most frequent type, and one of the next.
    first, second = (own.obs["cell_type"].value_counts().index[i] for i in (0, 1))
    pairs = ((first, 0), (first, 1), (second, 0))
    sums = [np.asarray(own.X[((own.obs["cell_type"] == kind) & (half == part)).to_numpy()].sum(0)).ravel() for kind, part in pairs]
    means = [np.log1p(1e4 * one / one.sum()) for one in sums]
    assert np.linalg.norm(means[0] - means[1]) < 0.5 * np.linalg.norm(means[0] - means[2])
