"""UMAP of the latents as a figure, in the run folder, the trackers and on the screen."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import scanpy as sc
from anndata import AnnData
from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure

from scalex.callbacks.result import Output, Result, place_others
from scalex.metrics.clusters import add_clusters
from scalex.system.atomic_files import atomic_write

__all__ = ["UmapPlot", "draw_umap"]

logger = logging.getLogger(__name__)

# Fewest cells for a UMAP. With fewer, its initialization from the graph's spectrum fails.
MIN_CELLS = 20
# Largest number of categories with a legend.
MAX_NAMED = 60


class UmapPlot(Output):
    """Neighbours, clusters and UMAP of the latents, and ``umap.pdf`` and ``umap.png`` coloured by domain, cell type and cluster.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    label_key
        Column of obs with labels, which may not exist.
    n_neighbors
        Number of neighbours in the graph.
    min_dist
        Smallest distance between cells on the UMAP.
    seed
        Seed of the layout and the clusters.
    max_cells
        Above this number of cells, a sample is laid out and drawn, and its neighbours place the other cells.
    show
        Whether the figure is shown, as in a notebook.
    """

    def __init__(
        self,
        folder: str | Path | None,
        *,
        label_key: str = "cell_type",
        n_neighbors: int = 30,
        min_dist: float = 0.1,
        seed: int = 124,
        max_cells: int = 200_000,
        show: bool = False,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.label_key = label_key
        self.n_neighbors = n_neighbors
        self.min_dist = min_dist
        self.seed = seed
        self.max_cells = max_cells
        self.show = show

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Add the UMAP to the result and draw it."""
        sample = result.sample(self.max_cells, self.seed)
        adata = sample.cells
        if adata.n_obs < MIN_CELLS:
            logger.warning("No UMAP: there are %d cells, and at least %d are needed.", adata.n_obs, MIN_CELLS)
            return
        add_clusters(adata, n_neighbors=self.n_neighbors, seed=self.seed)
        logger.info("UMAP of %s cells", f"{adata.n_obs:,}")
        sc.tl.umap(adata, min_dist=self.min_dist, random_state=self.seed)
        place_others(result.adata, sample)
        colors = ["domain", *([self.label_key] if self.label_key in adata.obs else []), "leiden"]
        figure = draw_umap(adata, colors)
        if self.folder is not None:
            for ending in ("pdf", "png"):
                with atomic_write(self.folder / f"umap.{ending}") as path:
                    figure.savefig(path, dpi=150)
            logger.info("Wrote %s", self.folder / "umap.png")
        for tracker in trainer.loggers:
            log_figure(tracker, figure, trainer.global_step)
        if self.show and plt.get_backend().lower() != "agg":
            plt.show()
        plt.close(figure)


def draw_umap(adata: AnnData, colors: list[str]) -> Figure:
    """Draw the UMAP, one panel for each of the columns `colors`.

    Parameters
    ----------
    adata
        Cells with obsm["X_umap"], (n_cells, 2).
    colors
        Columns of obs.
    """
    figure, axes = plt.subplots(1, len(colors), figsize=(5.5 * len(colors), 4), squeeze=False, layout="constrained")
    # The order of cells is random, since the last domain would hide the others.
    order = np.random.default_rng(0).permutation(adata.n_obs)
    shuffled = AnnData(obs=adata.obs[colors].iloc[order], obsm={"X_umap": adata.obsm["X_umap"][order]})
    for axis, color in zip(axes[0], colors, strict=True):
        n_kinds = adata.obs[color].nunique()
        named = n_kinds <= MAX_NAMED
        title = color if named else f"{color} ({n_kinds:,})"
        sc.pl.umap(shuffled, color=color, ax=axis, show=False, title=title, frameon=False, legend_loc="right margin" if named else "none")
    return figure


def log_figure(tracker: Logger, figure: Figure, step: int) -> None:
    """Log a figure to a tracker that accepts figures."""
    run: Any = getattr(tracker, "experiment", None)
    if isinstance(tracker, WandbLogger):
        tracker.log_image("umap", [figure])
    elif isinstance(tracker, TensorBoardLogger):
        run.add_figure("umap", figure, step, close=False)
    elif isinstance(tracker, MLFlowLogger):
        run.log_figure(tracker.run_id, figure, "umap.png")
