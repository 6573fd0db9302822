"""Sums of the counts of the cells of each type and sample."""

from __future__ import annotations

import logging
from pathlib import Path

from lightning import Trainer

from scalex.callbacks.markers import CLUSTERS, check_column
from scalex.callbacks.result import Output, Result
from scalex.data import ScalexDataModule
from scalex.features.annotation import rename_column
from scalex.genes.pseudobulk import CHUNK_SIZE, sum_counts
from scalex.system.atomic_files import atomic_write
from scalex.system.chunks import chunks
from scalex.system.settings import Count, NumberOfNeighbors, Seed, check_call

__all__ = ["Pseudobulk"]

logger = logging.getLogger(__name__)


@check_call
class Pseudobulk(Output):
    """Sum the counts of each type and sample with `scalex.genes.make_pseudobulk`, and write ``pseudobulk.h5ad``.

    Parameters
    ----------
    folder
        The run folder.
    label
        Column of obs with types. "leiden": the clusters, which are computed if no other output has.
    sample
        Column of obs with the samples. "domain": the domains.
    condition
        Column of obs with conditions; None: there are none.
    min_cells
        Groups of fewer cells are dropped and listed.
    n_neighbors, seed, max_cells
        Of the clusters, as in `Markers`.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        label: str = CLUSTERS,
        sample: str = "domain",
        condition: str | None = None,
        min_cells: Count = 10,
        n_neighbors: NumberOfNeighbors = 30,
        seed: Seed = 124,
        max_cells: Count = 30_000,
    ) -> None:
        self.folder = Path(folder)
        self.label, self.sample = rename_column(label), rename_column(sample)
        self.condition = None if condition is None else rename_column(condition)
        self.min_cells = min_cells
        self.n_neighbors = n_neighbors
        self.seed = seed
        self.max_cells = max_cells

    def check(self, data: ScalexDataModule) -> None:
        """Check that there are the columns, and that the values are counts."""
        for name in ("label", "sample", "condition"):
            if (column := getattr(self, name)) is not None:
                check_column(data, column, f"callbacks.pseudobulk.{name}")
        if data.preprocessor.fractional:
            raise ValueError(
                "callbacks.pseudobulk needs counts, and the values that are trained on are others. Name the matrix with the counts "
                "(dataset.layer=), or leave the output out."
            )

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Sum the counts, and write them."""
        data = result.data
        assert data is not None
        if self.label == CLUSTERS:
            result.sample_clusters(self.max_cells, self.seed, self.n_neighbors)
        counts = (data.cells.read(data.rows[part]) for part in chunks(len(data.rows), CHUNK_SIZE))
        obs, var = result.adata.obs, data.cells.var
        try:
            sums = sum_counts(counts, obs, var, label=self.label, sample=self.sample, condition=self.condition, min_cells=self.min_cells)
        except (ValueError, KeyError) as error:
            # A finished training is not lost for a few wrong values, or for want of cells.
            logger.warning("No pseudobulk: %s", error.args[0])
            return
        with atomic_write(self.folder / "pseudobulk.h5ad") as path:
            sums.write_h5ad(path)
        logger.info("Wrote %s (%d sums x %s features)", self.folder / "pseudobulk.h5ad", sums.n_obs, f"{sums.n_vars:,}")
