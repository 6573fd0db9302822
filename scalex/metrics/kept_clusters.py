"""Kept clusters: whether groups that each domain has on its own stay apart in an integration. No labels are needed."""

from __future__ import annotations

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import silhouette_samples

from scalex.metrics.compiled import import_umap

__all__ = ["kept_clusters"]

# Fewer cells of a domain have no clusters.
MIN_CELLS = 30
# Of larger domains, a sample is compared, since the time grows with the square.
MAX_CELLS = 4000


def kept_clusters(
    before: NDArray[np.float32], after: NDArray[np.float32], domain: ArrayLike, *, n_neighbors: int = 15, seed: int = 124
) -> NDArray[np.float64]:
    """Return the silhouette of cells, after the integration, in the clusters of their domain before it.

    The clusters (Leiden) are found in the cells of each domain alone, and compared with each other among these cells, so that neither
    differences between domains nor their mixing matter.

    Parameters
    ----------
    before
        (n_cells, n_components) coordinates before the integration, such as principal components of the inputs.
    after
        (n_cells, n_latent); distances are Euclidean.
    domain
        (n_cells,) domain of each cell.
    n_neighbors
        Number of neighbours of a cell in the graph of its domain, at most a third of its cells.
    seed
        Seed of the clusters, and of the sample of domains of more than 4,000 cells.

    Returns
    -------
    (n_cells,) float64 in [-1, 1], NaN in domains of fewer than 30 cells or of one cluster, and for cells that are not in the sample.

    References
    ----------
    Rousseeuw, Silhouettes: a graphical aid to the interpretation and validation of cluster analysis, J. Comput. Appl. Math. 20:53 (1987).
    """
    rng = np.random.default_rng(seed)
    import_umap()
    _, code = np.unique(np.asarray(domain), return_inverse=True)
    found = np.full(len(code), np.nan)
    for one in range(code.max() + 1):
        row = np.flatnonzero(code == one)
        if len(row) < MIN_CELLS:
            continue
        if len(row) > MAX_CELLS:
            row = np.sort(rng.choice(row, MAX_CELLS, replace=False))
        cells = AnnData(obsm={"before": before[row]}, obs=pd.DataFrame(index=row.astype(str)))
        sc.pp.neighbors(cells, n_neighbors=min(n_neighbors, len(row) // 3), use_rep="before", random_state=seed)
        sc.tl.leiden(cells, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
        cluster = cells.obs["leiden"].cat.codes.to_numpy()
        if 2 <= cluster.max() + 1 < len(row):
            found[row] = silhouette_samples(after[row], cluster)
    return found
