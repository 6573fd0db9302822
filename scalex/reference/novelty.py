"""Which cells of a data set are of types that the reference does not have."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from sklearn.mixture import GaussianMixture
from sklearn.neighbors import NearestNeighbors

__all__ = ["find_unknown"]

# Fewer cells of a domain do not show how far its cells lie from the types.
MIN_CELLS = 100
# Cells of a domain among which the nearest are searched. Of a larger domain, a random sample is used.
MAX_CELLS = 5000
# Cells over which the distance is averaged.
N_NEIGHBORS = 15
# How many times as far from the types as the other cells of their domain, or as the reference's own cells, groups of unknown cells lie.
# Known cells of new technologies and conditions form two groups as well, of which the farther one mostly lies less than 1.9 times as far.
LEAST_RATIO = 2.0
# Distances below this one count as this one; those of cells that the reference does not hold itself were all above .08. The only cell of a
# type has the distance 0, whose logarithm would dominate the averages around it.
SMALLEST = 0.05


def find_unknown(
    distance: NDArray[np.floating], latent: NDArray[np.floating], domain: NDArray[np.integer] | None = None, *, seed: int = 0
) -> NDArray[np.bool_]:
    """Find the cells of unknown types: groups of similar cells that lie much farther from all types than the others of their domain.

    Single cells lie far from their types for many reasons, and how far the cells of a new technology lie from the types is not known
    beforehand. So in each domain of at least 100 cells, the logarithm of the distance is averaged over the nearest 15 cells, and a mixture
    of two normal distributions with one variance is fitted to the averages. If their means differ by a factor of at least 2, the cells
    that more probably belong to the farther one are unknown. So are cells whose average is above 2, whatever the others are. In smaller
    domains, the cells whose own distance is above 2 are unknown.

    Parameters
    ----------
    distance
        (n_cells,) distances to the nearest type, at least 0, where 1 is far for a cell of the reference.
    latent
        (n_cells, n_latent) latents, by which cells are similar.
    domain
        (n_cells,) codes of the domains. None: all cells are of one domain.
    seed
        Seed of the sample of cells of a large domain.

    Returns
    -------
    (n_cells,) whether a cell is of an unknown type.
    """
    log_N = np.log(np.maximum(np.asarray(distance, np.float64), SMALLEST))
    unknown = np.zeros(len(log_N), bool)
    code_N = np.zeros(len(log_N), np.int64) if domain is None else np.asarray(domain)
    for code in np.unique(code_N):
        own = np.flatnonzero(code_N == code)
        unknown[own] = _find_in_domain(log_N[own], np.asarray(latent)[own], seed)
    return unknown


def _find_in_domain(log_N: NDArray[np.float64], latent_NZ: NDArray[np.floating], seed: int) -> NDArray[np.bool_]:
    farthest = np.log(LEAST_RATIO)
    if len(log_N) < MIN_CELLS:
        found: NDArray[np.bool_] = log_N > farthest
        return found
    sampled = np.arange(len(log_N))
    if len(sampled) > MAX_CELLS:
        sampled = np.sort(np.random.default_rng(seed).choice(sampled, MAX_CELLS, replace=False))
    index = NearestNeighbors(n_neighbors=N_NEIGHBORS).fit(latent_NZ[sampled])
    mean_N1 = log_N[sampled][index.kneighbors(latent_NZ, return_distance=False)].mean(1)[:, None]
    found = mean_N1[:, 0] > farthest
    if np.ptp(mean_N1[sampled]) < farthest:
        return found
    # The first means are far apart, since few cells may be unknown.
    first = np.quantile(mean_N1[sampled], [[0.3], [0.97]])
    mixture = GaussianMixture(2, covariance_type="tied", means_init=first, random_state=seed, max_iter=300).fit(mean_N1[sampled])
    near, far = np.argsort(mixture.means_.ravel())
    if mixture.means_[far, 0] - mixture.means_[near, 0] >= farthest:
        found |= mixture.predict(mean_N1) == far
    return found
