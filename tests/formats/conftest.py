from __future__ import annotations

import numpy as np
import pytest
from anndata import AnnData
from scipy import sparse

from scalex.demo import demo_cells


@pytest.fixture(scope="session")
def counts() -> AnnData:
    """Cells with nothing but names and counts, which is what every format holds."""
    made = demo_cells(300, 400, 2, seed=1)
    bare = AnnData(sparse.csr_matrix(made.X, dtype=np.float32), obs=made.obs[[]].copy(), var=made.var[[]].copy())
    bare.obs_names = [f"{''.join(np.random.default_rng(i).choice(list('ACGT'), 16))}-1" for i in range(made.n_obs)]
    return bare


@pytest.fixture(scope="session")
def few(counts: AnnData) -> AnnData:
    """30 of the cells x 40 of the features; not to be changed."""
    return counts[:30, :40].copy()
