"""Markers of clusters or types, as a table and a dot plot."""

from __future__ import annotations

import logging
from pathlib import Path

import pandas as pd
from anndata import AnnData
from lightning import Trainer
from matplotlib.figure import Figure

from scalex.callbacks.figures import publish_figure
from scalex.callbacks.result import Output, Result
from scalex.data import ScalexDataModule
from scalex.features.annotation import rename_column
from scalex.genes import find_markers
from scalex.pl import markers
from scalex.system.atomic_files import atomic_write
from scalex.system.settings import Count, NumberOfNeighbors, Seed, check_call
from scalex.system.stages import STAGE

__all__ = ["CLUSTERS", "Markers", "check_column"]

logger = logging.getLogger(__name__)

# Columns that a training adds to obs.
CLUSTERS = "leiden"
ADDED = (CLUSTERS, "domain")


@check_call
class Markers(Output):
    """Find markers of clusters or types with `scalex.genes.find_markers`, write ``markers.csv``, and draw the best ones.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    groupby
        Column of obs with the groups. "leiden": the clusters, which are computed if no other output has.
    n_features
        Number of features in the table for each group.
    n_shown
        Number of features in the figure for each group.
    n_neighbors
        Number of neighbours of a cell in the graph for the clusters.
    seed
        Seed of the clusters and of the sample.
    max_cells
        Number of cells above which markers are found in a sample.
    """

    def __init__(
        self,
        folder: str | Path | None,
        *,
        groupby: str = CLUSTERS,
        n_features: Count = 100,
        n_shown: Count = 3,
        n_neighbors: NumberOfNeighbors = 30,
        seed: Seed = 124,
        max_cells: Count = 30_000,
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.groupby = rename_column(groupby)
        self.n_features = n_features
        self.n_shown = n_shown
        self.n_neighbors = n_neighbors
        self.seed = seed
        self.max_cells = max_cells

    def check(self, data: ScalexDataModule) -> None:
        """Check that there is the column."""
        check_column(data, self.groupby, "callbacks.markers.groupby")

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Find, write, draw and log the markers."""
        if self.groupby == CLUSTERS:
            sample = result.sample_clusters(self.max_cells, self.seed, self.n_neighbors)
        else:
            sample = result.sample(self.max_cells, self.seed)
        assert result.data is not None
        kept = result.data.preprocessor.kept_features
        expression = result.data.normalized(slice(None) if sample.rows is None else sample.rows)
        adata = AnnData(obs=sample.cells.obs)
        adata.raw = AnnData(expression, obs=adata.obs[[]], var=pd.DataFrame(index=kept))
        logger.info(
            "Markers of the groups in obs[%r], %s cells x %s features", self.groupby, *map("{:,}".format, expression.shape), extra=STAGE
        )
        try:
            table = find_markers(adata, self.groupby, n_features=self.n_features)
        except ValueError as error:
            # A finished training is not lost for want of groups.
            logger.warning("No markers: %s", error)
            return
        if self.folder is not None:
            with atomic_write(self.folder / "markers.csv") as path:
                table.to_csv(path, index=False, float_format="%.4g")
            logger.info("Wrote %s", self.folder / "markers.csv")
        if (table["score"] > 0).any():
            figure = markers(adata, table, self.groupby, n_features=self.n_shown).figure
            assert isinstance(figure, Figure)
            publish_figure(figure, "markers", self.folder, trainer, show=False, fit=True)
        if self.groupby == CLUSTERS:
            logger.info("The p-values of markers are no tests: the clusters were found in the same cells")


def check_column(data: ScalexDataModule, name: str, setting: str) -> None:
    """Check that the cells have a column, or will have it after the training.

    Raises
    ------
    KeyError
        If they do not. The message lists the columns.
    """
    columns = [*map(str, data.cells.obs.columns), *ADDED]
    if name not in columns:
        raise KeyError(f"{setting}={name!r} is not in obs. Columns: {', '.join(dict.fromkeys(columns))}.")
