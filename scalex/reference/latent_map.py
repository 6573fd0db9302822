"""Placement of new cells among the cells of a reference: neighbours, distance, UMAP coordinates and cluster."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

__all__ = ["LatentMap", "Placement"]

N_NEIGHBORS = 15
# Share of the reference's own cells that count as outside.
OUTSIDE_SHARE = 0.01
# Cells that are held out, one at a time, to determine the scale of distances.
N_HELD_OUT = 10_000


class Placement(NamedTuple):
    """The placement of new cells among those of a reference.

    Attributes
    ----------
    distance
        (n_cells,) float32, mean distance to the nearest reference cells; 1 is the median of the reference's own cells.
    outside
        (n_cells,) bool, whether the distance is larger than that of 99 % of the reference's own cells.
    umap
        (n_cells, 2) float32 UMAP coordinates, or None if the reference has no UMAP.
    cluster
        (n_cells,) cluster of each cell, or None if the reference has no clusters.
    """

    distance: NDArray[np.float32]
    outside: NDArray[np.bool_]
    umap: NDArray[np.float32] | None
    cluster: pd.Categorical | None


@dataclass(frozen=True, eq=False)
class LatentMap:
    """The latents of a reference, indexed once for all new cells.

    The placement of a new cell depends on that cell and the reference alone.

    Attributes
    ----------
    neighbors
        The nearest-neighbour index of `n_indexed` cells.
    latent
        (n_indexed, n_latent) float32, the latents of the indexed cells.
    rows
        (n_indexed,) int64, their rows in the reference.
    own_distance
        (n_held_out,) float32, mean distance of up to 10,000 of them to their nearest neighbours, in the unit of `Placement.distance`.
    unit
        The distance in latent space that counts as 1.
    limit
        The distance above which a cell is outside, in that unit.
    umap, cluster
        UMAP coordinates and clusters of the indexed cells, or None if the reference has none.
    """

    neighbors: NearestNeighbors
    latent: NDArray[np.float32]
    rows: NDArray[np.int64]
    own_distance: NDArray[np.float32]
    unit: float
    limit: float
    umap: NDArray[np.float32] | None
    cluster: pd.Categorical | None

    @classmethod
    def fit(
        cls,
        latent: NDArray[np.float32],
        *,
        umap: NDArray[np.float32] | None = None,
        cluster: pd.Categorical | None = None,
        max_cells: int = 100_000,
        seed: int = 124,
    ) -> Self:
        """Index reference cells.

        The scale of distances comes from reference cells that are held out, one at a time.

        Parameters
        ----------
        latent
            (n_reference, n_latent) latents of at least two cells.
        umap
            (n_reference, 2) UMAP coordinates.
        cluster
            (n_reference,) cluster of each cell, none missing.
        max_cells
            Largest number of indexed cells. A larger reference is sampled, so that the cost per new cell stays bounded.
        seed
            Seed of the sample.
        """
        n_cells = len(latent)
        rows, rng = np.arange(n_cells), np.random.default_rng(seed)
        if n_cells > max_cells:
            rows = np.sort(rng.choice(n_cells, max_cells, replace=False))
        indexed = latent[rows]
        neighbors = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(rows) - 1)).fit(indexed)
        held_out = np.sort(rng.choice(len(rows), min(N_HELD_OUT, len(rows)), replace=False))
        # The nearest neighbour of each cell is the cell itself.
        own = np.sort(_find_nearest(neighbors, indexed, indexed[held_out], neighbors.n_neighbors + 1)[0])[:, 1:].mean(1)
        unit = float(np.median(own)) or 1.0
        return cls(
            neighbors,
            indexed,
            rows,
            (own / unit).astype(np.float32),
            unit,
            float(np.quantile(own, 1 - OUTSIDE_SHARE)) / unit,
            None if umap is None else umap[rows],
            None if cluster is None else cluster[rows],
        )

    def place(self, latent: NDArray[np.float32]) -> Placement:
        """Place new cells by their neighbours among the indexed cells.

        A cell gets the cluster with the largest share of its neighbours, and the mean UMAP coordinates of the neighbours in that cluster.
        Both are weighted by 1 / distance². So a cell of the reference stays in its place, and no cell lies between clusters.

        Parameters
        ----------
        latent
            (n_cells, n_latent) float32 latents from the same encoder.
        """
        distance, index = _find_nearest(self.neighbors, self.latent, latent, self.neighbors.n_neighbors)
        mean_distance = (distance.mean(1) / self.unit).astype(np.float32)
        weight = 1 / np.maximum(distance, 1e-6 * self.unit) ** 2
        cluster = None
        if self.cluster is not None:
            share = np.zeros((len(latent), len(self.cluster.categories)))
            np.add.at(share, (np.arange(len(latent))[:, None], self.cluster.codes[index]), weight)
            code = share.argmax(1)
            cluster = pd.Categorical.from_codes(code, dtype=self.cluster.dtype)
            weight = np.where(self.cluster.codes[index] == code[:, None], weight, 0)
        umap = None
        if self.umap is not None:
            weight /= weight.sum(1, keepdims=True)
            umap = np.einsum("ck,ckd->cd", weight, self.umap[index]).astype(np.float32)
        return Placement(mean_distance, mean_distance > self.limit, umap, cluster)


def _find_nearest(
    neighbors: NearestNeighbors, indexed: NDArray[np.float32], latent: NDArray[np.float32], n_neighbors: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return the distances to the nearest indexed cells, and the positions of these, (n_cells, n_neighbors) each.

    With more than 15 dimensions scikit-learn compares all cells, and its distances come from matrix products, whose rounding depends on
    the other cells. Therefore the distances are computed again.
    """
    index = neighbors.kneighbors(latent, n_neighbors, return_distance=False)
    distance = np.linalg.norm(latent[:, None].astype(np.float64) - indexed[index], axis=2)
    return distance, index
