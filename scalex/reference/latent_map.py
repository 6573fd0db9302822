"""Where new cells lie among the cells of a reference: neighbours, distance, and the place on its UMAP and in its clusters."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Self

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

__all__ = ["LatentMap", "Placed"]

N_NEIGHBORS = 15
# Share of the reference's own cells that lie farther from the others than what counts as outside.
OUTSIDE = 0.01
# Cells that are held out, one at a time, to find the scale of distances.
HELD_OUT = 10_000


class Placed(NamedTuple):
    """New cells among those of a reference.

    Attributes
    ----------
    distance
        (n_cells,) float32, mean distance to the nearest reference cells; 1 is the median of the reference's own cells.
    outside
        (n_cells,) bool, farther than 99 % of the reference's own cells are from the others.
    umap
        (n_cells, 2) float32, or None where the reference has no UMAP.
    cluster
        (n_cells,), or None where the reference has no clusters.
    """

    distance: NDArray[np.float32]
    outside: NDArray[np.bool_]
    umap: NDArray[np.float32] | None
    cluster: pd.Categorical | None


@dataclass(frozen=True, eq=False)
class LatentMap:
    """The latents of a reference, indexed once for all later cells.

    What is said of a new cell depends on that cell and the reference alone.

    Attributes
    ----------
    neighbors
        The index, of `n_indexed` cells.
    latent
        (n_indexed, n_latent) float32, these cells.
    rows
        (n_indexed,) their rows in the reference.
    own_distance
        (n_held_out,) float32, mean distance of up to 10,000 of them to their nearest others, in the same unit as `Placed.distance`.
    unit
        The distance in latent space that counts as 1.
    limit
        The distance above which a cell is outside, in that unit.
    umap, cluster
        Of the indexed cells, where the reference has them.
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

        The scale of distances is that of reference cells held out one at a time: the distance of each to its nearest others.

        Parameters
        ----------
        latent
            (n_reference, n_latent), at least two cells.
        umap
            (n_reference, 2) their places on the UMAP.
        cluster
            (n_reference,) their clusters, none missing.
        max_cells
            More cells than this are sampled, so that the cost per new cell does not grow with the reference.
        seed
            Seed of the sample.
        """
        n_cells = len(latent)
        rows, rng = np.arange(n_cells), np.random.default_rng(seed)
        if n_cells > max_cells:
            rows = np.sort(rng.choice(n_cells, max_cells, replace=False))
        indexed = latent[rows]
        neighbors = NearestNeighbors(n_neighbors=min(N_NEIGHBORS, len(rows) - 1)).fit(indexed)
        held_out = np.sort(rng.choice(len(rows), min(HELD_OUT, len(rows)), replace=False))
        # The nearest of each is the cell itself.
        own = np.sort(_nearest(neighbors, indexed, indexed[held_out], neighbors.n_neighbors + 1)[0])[:, 1:].mean(1)
        unit = float(np.median(own)) or 1.0
        return cls(
            neighbors,
            indexed,
            rows,
            (own / unit).astype(np.float32),
            unit,
            float(np.quantile(own, 1 - OUTSIDE)) / unit,
            None if umap is None else umap[rows],
            None if cluster is None else cluster[rows],
        )

    def place(self, latent: NDArray[np.float32]) -> Placed:
        """Find the neighbours of new cells, and what follows from them.

        A cell's cluster is the one with the greatest share of its neighbours, its place on the UMAP the mean place of those in that
        cluster, both weighted by 1 / distance², so that a cell of the reference itself is put where it is, and none between clusters.

        Parameters
        ----------
        latent
            (n_cells, n_latent) float32, of the same encoder.
        """
        distance, index = _nearest(self.neighbors, self.latent, latent, self.neighbors.n_neighbors)
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
        return Placed(mean_distance, mean_distance > self.limit, umap, cluster)


def _nearest(
    neighbors: NearestNeighbors, indexed: NDArray[np.float32], latent: NDArray[np.float32], n_neighbors: int
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distances to the nearest indexed cells, and which these are, (n_cells, n_neighbors) each.

    With more than 15 dimensions scikit-learn looks at all cells, and its distances come from matrix products, whose rounding depends on
    the cells beside one: they are computed anew.
    """
    index = neighbors.kneighbors(latent, n_neighbors, return_distance=False)
    distance = np.linalg.norm(latent[:, None].astype(np.float64) - indexed[index], axis=2)
    return distance, index
