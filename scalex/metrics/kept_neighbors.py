"""Kept neighbours: what an integration leaves of the structure within the domains. No labels are needed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from scalex.metrics.neighbors import find_nearest

__all__ = ["kept_neighbors"]

# A former neighbour is still near if it is among this multiple of the number of neighbours.
NEAR = 3


def kept_neighbors(
    before: NDArray[np.float32], after: NDArray[np.float32], domain: ArrayLike, *, n_neighbors: int = 15
) -> NDArray[np.float64]:
    """Return each cell's share of neighbours of its own domain that are still near after the integration.

    Of a cell's k nearest cells of its domain before, a share s is among its 3 k nearest cells of the domain after. By chance,
    c = 3 k / (n - 1) would be, with n cells of the domain. The cell has (s - c) / (1 - c): 1 if all are still near, and 0 on average
    if the integration destroys the structure. Since no cells of other domains are compared, a good mixing costs nothing.

    Parameters
    ----------
    before
        (n_cells, n_components) coordinates before the integration, such as principal components of the inputs.
    after
        (n_cells, n_latent).
    domain
        (n_cells,) domain of each cell.
    n_neighbors
        k, at most a tenth of the cells of the domain.

    Returns
    -------
    (n_cells,) float64, NaN in domains of fewer than ten cells.
    """
    _, code = np.unique(np.asarray(domain), return_inverse=True)
    kept = np.full(len(code), np.nan)
    for one in range(code.max() + 1):
        row = np.flatnonzero(code == one)
        k = min(n_neighbors, len(row) // 10)
        if k == 0:
            continue
        formerly, now = find_nearest(before[row], k), find_nearest(after[row], NEAR * k)
        share = (formerly[:, :, None] == now[:, None, :]).any(2).mean(1)
        chance = NEAR * k / (len(row) - 1)
        kept[row] = (share - chance) / (1 - chance)
    return kept
