from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from scalex.demo import demo_cells


@pytest.fixture(scope="session")
def counts() -> AnnData:
    """Cells with only names and counts, which every format can hold."""
    demo = demo_cells(300, 400, 2, seed=1)
    bare = AnnData(sparse.csr_matrix(demo.X, dtype=np.float32), obs=demo.obs[[]].copy(), var=demo.var[[]].copy())
    bare.obs_names = [f"{''.join(np.random.default_rng(i).choice(list('ACGT'), 16))}-1" for i in range(demo.n_obs)]
    return bare


@pytest.fixture(scope="session")
def few(counts: AnnData) -> AnnData:
    """The first 30 cells x 40 features. Tests must not change them."""
    return counts[:30, :40].copy()
