"""Neighbours and clusters of latents."""

from __future__ import annotations

import logging

import scanpy as sc
from anndata import AnnData

from scalex.metrics.compiled import import_umap

__all__ = ["add_clusters"]

logger = logging.getLogger(__name__)


def add_clusters(adata: AnnData, *, n_neighbors: int, seed: int) -> None:
    """Add the neighbour graph of obsm["latent"] and obs["leiden"], unless they exist."""
    if "leiden" in adata.obs and "connectivities" in adata.obsp:
        return
    n_neighbors = min(n_neighbors, adata.n_obs - 1)
    logger.info("Neighbours (%d) and clusters of %s cells", n_neighbors, f"{adata.n_obs:,}")
    import_umap()
    sc.pp.neighbors(adata, n_neighbors=n_neighbors, use_rep="latent", random_state=seed)
    sc.tl.leiden(adata, flavor="igraph", n_iterations=2, directed=False, random_state=seed)
