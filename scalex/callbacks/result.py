"""The result of a training, and the sample of it that neighbours, UMAP, clusters and scores are made of."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning import Callback, Trainer
from numpy.typing import NDArray

from scalex.reference.latent_map import LatentMap
from scalex.system.chunks import chunks

__all__ = ["Output", "Result", "Sample", "place_others"]

logger = logging.getLogger(__name__)

# Cells of the sample among which the others find their neighbours: more tell hardly more, and take longer.
MOST_INDEXED = 50_000
PIECE_ROWS = 20_000


class Sample(NamedTuple):
    """The cells that neighbours, UMAP, clusters and scores are made of.

    Attributes
    ----------
    cells
        The embedding itself, or obs and latents of some of its cells.
    rows
        (n_sampled,) int64, ascending, their rows in the embedding; None: all.
    """

    cells: AnnData
    rows: NDArray[np.int64] | None


@dataclass
class Result:
    """What comes out of a training, to which the outputs add.

    Attributes
    ----------
    adata
        The kept cells with their latents, obsm["latent"].
    label
        (n_cells,) known type of each cell, or None.
    """

    adata: AnnData
    label: pd.Categorical | None = None
    _sample: Sample | None = None

    def sample(self, max_cells: int, seed: int) -> Sample:
        """All cells, or a random sample of about `max_cells` of them in the shares of the domains; the same at each call.

        Parameters
        ----------
        max_cells
            Up to so many cells all are taken.
        seed
            Of the sample.
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
                "Neighbours, UMAP, clusters and scores are those of a sample of %s of %s cells (max_cells=%s), in the shares of the "
                "domains; the others are placed by their neighbours", f"{len(rows):,}", f"{adata.n_obs:,}", f"{max_cells:,}",
            )  # fmt: skip
            self._sample = Sample(AnnData(obs=adata.obs.iloc[rows].copy(), obsm={"latent": np.asarray(adata.obsm["latent"][rows])}), rows)
        return self._sample


class Output(Callback):
    """A callback that makes something of the result of a training, once the cells are embedded, before they are written."""

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Add to the result; write pictures and tables. Called in the first process alone."""
        raise NotImplementedError


def place_others(adata: AnnData, sample: Sample) -> None:
    """Give all cells the clusters, and the UMAP, that the sampled ones have; see `LatentMap.place`."""
    if sample.rows is None:
        return
    latent = np.asarray(adata.obsm["latent"])
    umap = np.asarray(sample.cells.obsm["X_umap"], np.float32) if "X_umap" in sample.cells.obsm else None
    cluster = sample.cells.obs["leiden"].array
    found = LatentMap.fit(np.asarray(sample.cells.obsm["latent"]), umap=umap, cluster=cluster, max_cells=MOST_INDEXED)
    code = np.empty(adata.n_obs, np.int64)
    place = np.empty((adata.n_obs, 2), np.float32)
    for part in chunks(adata.n_obs, PIECE_ROWS):
        placed = found.place(latent[part])
        assert placed.cluster is not None
        code[part] = placed.cluster.codes
        if placed.umap is not None:
            place[part] = placed.umap
    code[sample.rows] = cluster.codes
    adata.obs["leiden"] = pd.Categorical.from_codes(code, dtype=cluster.dtype)
    if umap is not None:
        place[sample.rows] = umap
        adata.obsm["X_umap"] = place
