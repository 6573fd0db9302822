"""The result of a training, and its sample, from which neighbours, UMAP, clusters and scores are computed."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning import Callback, Trainer
from numpy.typing import NDArray

from scalex.data import ScalexDataModule
from scalex.h5ad.scratch_table import ScratchTable
from scalex.metrics.clusters import add_clusters
from scalex.reference.latent_map import LatentMap
from scalex.system.chunks import chunks

__all__ = ["Output", "Result", "Sample", "place_others"]

logger = logging.getLogger(__name__)

# Largest number of cells among which neighbours are searched. More take longer and hardly change the result.
MAX_INDEXED = 50_000
CHUNK_SIZE = 20_000


class Sample(NamedTuple):
    """The cells from which neighbours, UMAP, clusters and scores are computed.

    Attributes
    ----------
    cells
        All cells of the result, or obs and latents of a sample.
    rows
        (n_sampled,) int64, ascending, their rows in the result. None: all rows.
    """

    cells: AnnData
    rows: NDArray[np.int64] | None


@dataclass
class Result:
    """The result of a training, to which the outputs add.

    Attributes
    ----------
    adata
        The kept cells with their latents, obsm["latent"].
    label
        (n_cells,) label of each cell, or None.
    coordinates
        (n_cells, n_components) coordinates in the principal components of the inputs, in memory or in a file, or None.
    data
        The cells with their expression, from memory or from their files, or None.
    """

    adata: AnnData
    label: pd.Categorical | None = None
    coordinates: NDArray[np.float32] | ScratchTable | None = None
    data: ScalexDataModule | None = None
    _sample: Sample | None = None

    def sample(self, max_cells: int, seed: int) -> Sample:
        """Return all cells, or a random sample of about `max_cells` of them, in proportion to the domains.

        All calls return the same sample.

        Parameters
        ----------
        max_cells
            Number of cells above which a sample is drawn.
        seed
            Seed of the sample.
        """
        adata = self.adata
        if adata.n_obs <= max_cells:
            return Sample(adata, None)
        if self._sample is None:
            rng = np.random.default_rng(seed)
            codes = adata.obs["domain"].cat.codes.to_numpy()
            members = [np.flatnonzero(codes == code) for code in np.unique(codes)]
            share = max_cells / adata.n_obs
            rows = np.sort(np.concatenate([rng.choice(own, max(round(len(own) * share), 1), replace=False) for own in members]))
            logger.info(
                "Neighbours, UMAP, clusters and scores are computed for a sample of %s of %s cells (max_cells=%s), in proportion to the "
                "domains. Their neighbours place the other cells", f"{len(rows):,}", f"{adata.n_obs:,}", f"{max_cells:,}",
            )  # fmt: skip
            self._sample = Sample(AnnData(obs=adata.obs.iloc[rows].copy(), obsm={"latent": np.asarray(adata.obsm["latent"][rows])}), rows)
        return self._sample

    def sample_clusters(self, max_cells: int, seed: int, n_neighbors: int) -> Sample:
        """Return what `sample` does, with clusters in obs["leiden"], which all cells get. Two cells have none.

        Parameters
        ----------
        max_cells, seed
            As in `sample`. `seed` is that of the clusters, too.
        n_neighbors
            Number of neighbours of a cell in the graph for the clusters.
        """
        sample = self.sample(max_cells, seed)
        if sample.cells.n_obs > 2:
            add_clusters(sample.cells, n_neighbors=n_neighbors, seed=seed)
            if "leiden" not in self.adata.obs:
                place_others(self.adata, sample)
        return sample


class Output(Callback):
    """A callback that uses the result of a training, after the cells are embedded and before they are written."""

    def check(self, data: ScalexDataModule) -> None:
        """Check before the training that the cells have what the output needs.

        Raises
        ------
        ValueError, KeyError
            If they do not.
        """

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Add to the result, and write figures and tables. Only rank 0 calls this."""
        raise NotImplementedError


def place_others(adata: AnnData, sample: Sample) -> None:
    """Give all cells the clusters, and the UMAP coordinates if there are any, of the sampled cells; see `LatentMap.place`."""
    if sample.rows is None:
        return
    latent = np.asarray(adata.obsm["latent"])
    umap = np.asarray(sample.cells.obsm["X_umap"], np.float32) if "X_umap" in sample.cells.obsm else None
    cluster = sample.cells.obs["leiden"].array
    latent_map = LatentMap.fit(np.asarray(sample.cells.obsm["latent"]), umap=umap, cluster=cluster, max_cells=MAX_INDEXED)
    code = np.empty(adata.n_obs, np.int64)
    coordinates = np.empty((adata.n_obs, 2), np.float32)
    for rows in chunks(adata.n_obs, CHUNK_SIZE):
        placement = latent_map.place(latent[rows])
        assert placement.cluster is not None
        code[rows] = placement.cluster.codes
        if placement.umap is not None:
            coordinates[rows] = placement.umap
    code[sample.rows] = cluster.codes
    adata.obs["leiden"] = pd.Categorical.from_codes(code, dtype=cluster.dtype)
    if umap is not None:
        coordinates[sample.rows] = umap
        adata.obsm["X_umap"] = coordinates
