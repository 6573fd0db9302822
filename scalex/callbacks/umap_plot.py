"""UMAP of the latents, as a figure for the run folder, the trackers and the screen."""

from __future__ import annotations

import logging
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from lightning import Trainer
from matplotlib.figure import Figure

from scalex.callbacks.figures import publish_figure
from scalex.callbacks.result import Output, Result, place_others
from scalex.features.annotation import rename_column
from scalex.metrics.clusters import add_clusters
from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names
from scalex.system.settings import Count, NonNegative, NumberOfNeighbors, Seed, check_call

__all__ = ["UmapPlot", "draw_umap"]

logger = logging.getLogger(__name__)

# A layout of fewer cells shows nothing, and UMAP's spectral initialization fails.
MIN_CELLS = 20
# A legend of more values would fill the figure.
MAX_LEGEND = 60


@check_call
class UmapPlot(Output):
    """Compute neighbours, clusters and UMAP of the latents, and draw ``umap.pdf`` and ``umap.png`` by domain, cell type and cluster.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    label_key
        Column of obs with known cell types. It may be absent.
    n_neighbors
        Number of neighbours of a cell in the graph.
    min_dist
        UMAP's smallest distance between cells.
    seed
        Seed of the layout and the clusters.
    max_cells
        Number of cells above which a sample is laid out and drawn. Its neighbours place the other cells.
    show
        Show the figure, as in a notebook.
    """

    def __init__(
        self,
        folder: str | Path | None,
        *,
        label_key: str = "cell_type",
        n_neighbors: NumberOfNeighbors = 30,
        min_dist: NonNegative = 0.1,
        seed: Seed = 124,
        max_cells: Count = 200_000,
        show: bool = False,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.label_key = rename_column(label_key)
        self.n_neighbors = n_neighbors
        self.min_dist = min_dist
        self.seed = seed
        self.max_cells = max_cells
        self.show = show

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Add clusters and UMAP to the result, and draw, write, log and show the figure."""
        sample = result.sample(self.max_cells, self.seed)
        adata = sample.cells
        if adata.n_obs < MIN_CELLS:
            logger.warning("No UMAP: there are only %d cells, and it needs at least %d.", adata.n_obs, MIN_CELLS)
            return
        add_clusters(adata, n_neighbors=self.n_neighbors, seed=self.seed)
        logger.info("UMAP of %s cells", f"{adata.n_obs:,}")
        sc.tl.umap(adata, min_dist=self.min_dist, random_state=self.seed)
        place_others(result.adata, sample)
        colors = ["domain", *([self.label_key] if self.label_key in adata.obs else []), "leiden"]
        publish_figure(draw_umap(adata, colors), "umap", self.folder, trainer, show=self.show)


@draw_text_as_it_is()
def draw_umap(adata: AnnData, colors: list[str]) -> Figure:
    """Draw obsm["X_umap"], (n_cells, 2), in one panel for each of some columns of obs."""
    figure, axes = plt.subplots(1, len(colors), figsize=(5.5 * len(colors), 4), squeeze=False, layout="constrained")
    # In random order: otherwise the last domain of the table would hide the others.
    order = np.random.default_rng(0).permutation(adata.n_obs)
    for axis, color in zip(axes[0], colors, strict=True):
        groups = pd.Categorical(adata.obs[color]).remove_unused_categories()
        legend = len(groups.categories) <= MAX_LEGEND
        title = shorten_name(color) if legend else f"{shorten_name(color)} ({len(groups.categories):,})"
        obs = pd.DataFrame({"group": groups.rename_categories(shorten_names(groups.categories))[order]}, index=adata.obs_names[order])
        shuffled = AnnData(obs=obs, obsm={"X_umap": adata.obsm["X_umap"][order]})
        sc.pl.umap(
            shuffled, color="group", ax=axis, show=False, title=title, frameon=False, legend_loc="right margin" if legend else "none"
        )
    return figure
