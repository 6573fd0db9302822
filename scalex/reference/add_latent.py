"""Joining the result of a run to the AnnData that the user had before."""

from __future__ import annotations

from pathlib import Path

import anndata as ad
import numpy as np

from scalex.features.names import format_names
from scalex.reference.finished_run import FinishedRun

__all__ = ["add_latent"]

# Entries of obsm that describe a cell by few numbers.
COORDINATES = ("latent", "X_umap")


def add_latent(adata: ad.AnnData, run: ad.AnnData | str | Path) -> ad.AnnData:
    """Return the cells of an AnnData that a run has kept, with all they held before and what the run adds.

    Cells are matched by name. A run holds the input features and what it has computed; layers, images, spatial coordinates and colours stay
    in the AnnData that was given to it.

    Parameters
    ----------
    adata
        The cells as they were given to the run. They are not changed.
    run
        The result of the run, or its folder.

    Returns
    -------
    AnnData
        Kept cells x all features of `adata`, in the order of `adata`, with obsm["latent"] and, if the run has them, obsm["X_umap"] and the
        columns of obs that `adata` lacks, such as obs["domain"] and obs["leiden"].

    Raises
    ------
    ValueError
        If the names of cells are not unique, or if none of them is in the run.
    FileNotFoundError
        If there is no such folder.

    Examples
    --------
    >>> import scalex
    >>> cells = scalex.demo_cells(300, 500)
    >>> cells.layers["counts"] = cells.X.copy()
    >>> adata = scalex.SCALEX(cells, min_features=100, max_iteration=20, ignore_umap=True)
    >>> scalex.add_latent(cells, adata).layers["counts"].shape
    (300, 500)
    """
    cells = run if isinstance(run, ad.AnnData) else FinishedRun.load(run).cells
    if not adata.obs_names.is_unique:
        raise ValueError(
            "The names of the cells in adata are not unique: make them unique before the run, by adata.obs_names_make_unique()."
        )
    kept = adata.obs_names.isin(cells.obs_names)
    if not kept.any():
        raise ValueError(
            f"No cell of adata is in the run. Names in adata: {format_names(adata.obs_names, 3)}; in the run: "
            f"{format_names(cells.obs_names, 3)}. If the run joined several sources that share names, they end with the name of the source."
        )
    joined = adata[kept].copy()
    rows = cells.obs_names.get_indexer(joined.obs_names)
    for name in COORDINATES:
        if name in cells.obsm:
            joined.obsm[name] = np.asarray(cells.obsm[name])[rows]
    for name, column in cells.obs.iloc[rows].items():
        if name not in joined.obs:
            joined.obs[name] = column.set_axis(joined.obs_names)
    return joined
