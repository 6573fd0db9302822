"""The nearest cells, on which several scores are based."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

__all__ = ["find_nearest"]


def find_nearest(cells: NDArray[np.float32], n_neighbors: int) -> NDArray[np.int64]:
    """Return the rows of each cell's nearest other cells by Euclidean distance, the nearest first, (n_cells, n_neighbors).

    Parameters
    ----------
    cells
        (n_cells, n_dimensions).
    n_neighbors
        Number of neighbours. If there are fewer other cells, all of them are returned.
    """
    index = NearestNeighbors(n_neighbors=min(n_neighbors, len(cells) - 1)).fit(cells)
    # Without a query, a cell is not its own neighbour.
    nearest: NDArray[np.int64] = index.kneighbors(return_distance=False)
    return nearest
