"""Map a query onto a reference with Symphony (Kang et al., Nature Communications 12:5890, 2021), as `symphonypy` implements it.

`benchmarks/quality/peers.py` runs this with the interpreter that has symphonypy (0.2).

usage: python -I symphony_query.py REFERENCE.h5ad QUERY.h5ad LATENTS.npz SEED

Both files hold counts of the same features, and obs["batch"]. LATENTS.npz gets the arrays "reference" and "query", (n_cells, 30).
"""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import sys
import warnings

import anndata as ad
import numpy as np
import scanpy as sc
import symphonypy as sp  # type: ignore

N_COMPONENTS = 30


def main(reference: str, query: str, latents: str, seed: int) -> None:
    """Map with the settings of its tutorial: normalized, scaled features, Harmony on components, and a correction for the query's batch."""
    known, new = ad.read_h5ad(reference), ad.read_h5ad(query)
    for cells in (known, new):
        sc.pp.normalize_total(cells, target_sum=1e4)
        sc.pp.log1p(cells)
    known.var["highly_variable"] = True
    sc.pp.scale(known, max_value=10)
    sc.pp.pca(known, n_comps=min(N_COMPONENTS, known.n_vars - 1), zero_center=False, random_state=seed)
    if known.obs["batch"].nunique() > 1:
        sp.pp.harmony_integrate(known, key="batch", random_seed=seed)
        sp.tl.map_embedding(new, known, key="batch")
    else:
        # Harmony needs several batches. With one, its clusters are found in the components as they are.
        known.obs["half"] = np.random.default_rng(seed).choice(["a", "b"], known.n_obs)
        sp.pp.harmony_integrate(known, key="half", random_seed=seed)
        sp.tl.map_embedding(new, known, key="batch")
    np.savez(latents, reference=known.obsm["X_pca_harmony"], query=new.obsm["X_pca_harmony"])


if __name__ == "__main__":
    warnings.filterwarnings("ignore")
    main(sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]))
