"""Figures from arrays; nothing is read or written."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
from anndata import AnnData
from matplotlib.figure import Figure

__all__ = ["umap_figure"]


def umap_figure(adata: AnnData, colors: list[str]) -> Figure:
    """The UMAP of `adata`, one panel for each obs column of `colors`.

    Parameters
    ----------
    adata
        With obsm["X_umap"], (n_cells, 2).
    colors
        Columns of obs.
    """
    figure, axes = plt.subplots(1, len(colors), figsize=(5.5 * len(colors), 4), squeeze=False, layout="constrained")
    # Cells are drawn in random order: else the domain that comes last in the table hides the others.
    order = np.random.default_rng(0).permutation(adata.n_obs)
    shuffled = AnnData(obs=adata.obs[colors].iloc[order], obsm={"X_umap": adata.obsm["X_umap"][order]})
    for axis, color in zip(axes[0], colors, strict=True):
        sc.pl.umap(shuffled, color=color, ax=axis, show=False, title=color, frameon=False)
    return figure
