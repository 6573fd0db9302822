from __future__ import annotations

import numpy as np
import pytest

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
