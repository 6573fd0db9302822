"""UMAP of the latents, as a figure for the run folder, the trackers and the screen."""

from __future__ import annotations

import logging
from pathlib import Path

import scanpy as sc
from lightning import Trainer
from matplotlib.figure import Figure

from scalex.callbacks.figures import publish_figure
from scalex.callbacks.result import Output, Result, place_others
from scalex.features.annotation import rename_column
from scalex.metrics.clusters import add_clusters
from scalex.pl import umap
from scalex.system.settings import Count, NonNegative, NumberOfNeighbors, Seed, check_call
from scalex.system.stages import STAGE

__all__ = ["UmapPlot"]

logger = logging.getLogger(__name__)

# A layout of fewer cells shows nothing, and UMAP's spectral initialization fails.
MIN_CELLS = 20


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
        max_cells: Count = 30_000,
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
        logger.info("UMAP of %s cells", f"{adata.n_obs:,}", extra=STAGE)
        sc.tl.umap(adata, min_dist=self.min_dist, random_state=self.seed)
        place_others(result.adata, sample)
        colors = ["domain", *([self.label_key] if self.label_key in adata.obs else []), "leiden"]
        figure = umap(adata, colors)[0].figure
        assert isinstance(figure, Figure)
        publish_figure(figure, "umap", self.folder, trainer, show=self.show)
