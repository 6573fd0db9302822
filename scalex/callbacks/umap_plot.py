"""UMAP of the latents as a picture: in the run folder, in the tracker, on the screen."""

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

__all__ = ["UmapPlot", "umap_figure"]

logger = logging.getLogger(__name__)

# Fewer cells have no layout worth the name, and UMAP's start from the graph's spectrum fails.
LEAST_CELLS = 20
# More kinds have no legend: it would be all that one sees.
MOST_NAMED = 60


class UmapPlot(Output):
    """Neighbours, clusters and UMAP of the latents, and ``umap.pdf`` and ``umap.png`` coloured by domain, cell type and cluster.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    label_key
        Column of obs with known cell types; may be absent.
    n_neighbors
        Neighbours of a cell in the graph.
    min_dist
        UMAP's smallest distance between cells.
    seed
        Seed of the layout and the clusters.
    max_cells
        Of more cells than this, a sample is laid out and drawn, and the others are placed by their neighbours.
    show
        Show the picture, as in a notebook.
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
        if adata.n_obs < LEAST_CELLS:
            logger.warning("No UMAP: %d cells are too few (at least %d).", adata.n_obs, LEAST_CELLS)
            return
        add_clusters(adata, n_neighbors=self.n_neighbors, seed=self.seed)
        logger.info("UMAP of %s cells", f"{adata.n_obs:,}")
        sc.tl.umap(adata, min_dist=self.min_dist, random_state=self.seed)
        place_others(result.adata, sample)
        colors = ["domain", *([self.label_key] if self.label_key in adata.obs else []), "leiden"]
        figure = umap_figure(adata, colors)
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
        n_kinds = adata.obs[color].nunique()
        named = n_kinds <= MOST_NAMED
        title = color if named else f"{color} ({n_kinds:,})"
        sc.pl.umap(shuffled, color=color, ax=axis, show=False, title=title, frameon=False, legend_loc="right margin" if named else "none")
    return figure


def log_figure(tracker: Logger, figure: Figure, step: int) -> None:
    """Hand a picture to a tracker that takes pictures."""
    run: Any = getattr(tracker, "experiment", None)
    if isinstance(tracker, WandbLogger):
        tracker.log_image("umap", [figure])
    elif isinstance(tracker, TensorBoardLogger):
        run.add_figure("umap", figure, step, close=False)
    elif isinstance(tracker, MLFlowLogger):
        run.log_figure(tracker.run_id, figure, "umap.png")
