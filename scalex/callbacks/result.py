"""The result of a training, and a sample of it for neighbours, UMAP, clusters and scores."""

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

# Number of sampled cells among which the others find their neighbours. More take longer and hardly improve the places.
MAX_INDEXED = 50_000
CHUNK_ROWS = 20_000


class Sample(NamedTuple):
    """The cells for neighbours, UMAP, clusters and scores.

    Attributes
    ----------
    cells
        The embedding itself, or obs and latents of some of its cells.
    rows
        (n_sampled,) int64 ascending rows in the embedding; None: all cells.
    """

    cells: AnnData
    rows: NDArray[np.int64] | None


@dataclass
class Result:
    """The embedded cells of a training, to which the outputs add.

    Attributes
    ----------
    adata
        The kept cells with their latents, obsm["latent"].
    label
        (n_cells,) labels, or None.
    """

    adata: AnnData
    label: pd.Categorical | None = None
    _sample: Sample | None = None

    def sample(self, max_cells: int, seed: int) -> Sample:
        """Return all cells, or a random sample of about `max_cells`, with the same share of each domain. Each call returns the same.

        Parameters
        ----------
        max_cells
            Above this number of cells, a sample is taken.
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
                "Neighbours, UMAP, clusters and scores are computed for a sample of %s of %s cells (max_cells=%s), with the same share of "
                "each domain; its neighbours place the other cells", f"{len(rows):,}", f"{adata.n_obs:,}", f"{max_cells:,}",
            )  # fmt: skip
            self._sample = Sample(AnnData(obs=adata.obs.iloc[rows].copy(), obsm={"latent": np.asarray(adata.obsm["latent"][rows])}), rows)
        return self._sample


class Output(Callback):
    """A callback that is called with the result of a training, before it is written."""

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Add to the result, and write figures and tables. Only the first process calls this."""
        raise NotImplementedError


def place_others(adata: AnnData, sample: Sample) -> None:
    """Give all cells clusters and UMAP coordinates, from their neighbours in the sample; see `LatentMap.place`."""
    if sample.rows is None:
        return
    latent = np.asarray(adata.obsm["latent"])
    umap = np.asarray(sample.cells.obsm["X_umap"], np.float32) if "X_umap" in sample.cells.obsm else None
    cluster = sample.cells.obs["leiden"].array
    index = LatentMap.fit(np.asarray(sample.cells.obsm["latent"]), umap=umap, cluster=cluster, max_cells=MAX_INDEXED)
    code = np.empty(adata.n_obs, np.int64)
    places = np.empty((adata.n_obs, 2), np.float32)
    for part in chunks(adata.n_obs, CHUNK_ROWS):
        placed = index.place(latent[part])
        assert placed.cluster is not None
        code[part] = placed.cluster.codes
        if placed.umap is not None:
            places[part] = placed.umap
    code[sample.rows] = cluster.codes
    adata.obs["leiden"] = pd.Categorical.from_codes(code, dtype=cluster.dtype)
    if umap is not None:
        places[sample.rows] = umap
        adata.obsm["X_umap"] = places
