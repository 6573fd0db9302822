"""Soft clusters in which the domains are mixed, and the effects of domains in them (Korsunsky et al. 2019).

Dimension letters: N cells, K clusters, D domains, Z latent dimensions, B cells of a block.
"""

from __future__ import annotations

import warnings
from typing import NamedTuple

import torch
from sklearn.cluster import KMeans
from sklearn.exceptions import ConvergenceWarning
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MAX_ATTRACTION", "RIDGE", "RIDGE_PER_MISSING", "WIDTH", "Clusters", "first_centers", "mixed_clusters", "remove_domain_effects"]

# Width of a soft cluster, where the mean squared distance of two cells is 2. With more, cells move to clusters of other types.
WIDTH = 0.03
# Strength of the penalty on clusters in which a domain is over-represented.
DIVERSITY = 2.0
# Limit of the attraction of clusters without a cell's domain. Without a limit, types of a single domain would merge.
MAX_ATTRACTION = 2.0
CELLS_PER_CLUSTER = 30
MAX_CLUSTERS = 100
N_UPDATES = 20
N_BLOCKS = 20
# Penalty on the effect of a domain in a cluster, in cells, and its growth with each cell that the domain lacks there. Without the growth,
# a few stray cells would drag a type of another domain almost half of the way to them.
RIDGE = 1.0
RIDGE_PER_MISSING = 0.2


class Clusters(NamedTuple):
    """Soft clusters: shares of each cell, (n_cells, n_clusters) with sum 1, and centres, (n_clusters, n_latent)."""

    share_NK: Tensor
    center_KZ: Tensor


def first_centers(cell_NZ: Tensor, seed: int, n_least: int = 2) -> Tensor:
    """Return the first centres of clusters, by k-means: (n_clusters, n_latent), a cluster for each 30 cells, `n_least` to 100.

    Parameters
    ----------
    cell_NZ
        (n_cells, n_latent).
    seed
        Seed of the first centres of k-means.
    n_least
        Fewest clusters.
    """
    n_clusters = min(max(round(len(cell_NZ) / CELLS_PER_CLUSTER), n_least), MAX_CLUSTERS, len(cell_NZ))
    # With more threads, sums would change in the last bits. Identical cells make fewer clusters than asked for, which is harmless.
    with threadpool_limits(1), warnings.catch_warnings(action="ignore", category=ConvergenceWarning):
        means = KMeans(n_clusters, n_init=1, max_iter=25, random_state=seed).fit(cell_NZ.numpy())
    return torch.from_numpy(means.cluster_centers_)


def mixed_clusters(
    cell_NZ: Tensor, domain_N: Tensor, center_KZ: Tensor, generator: torch.Generator, max_attraction: float = MAX_ATTRACTION
) -> Clusters:
    """Find clusters by soft k-means, in which a cluster repels cells of the domains that are over-represented in it.

    Parameters
    ----------
    cell_NZ
        (n_cells, n_latent) with total variance 1.
    domain_N
        (n_cells,) domain codes.
    center_KZ
        (n_clusters, n_latent) first centres.
    generator
        Random numbers of the order of updates.
    max_attraction
        Limit of the attraction of a cluster without a cell's domain, at least 0. Harmony has no limit, and types of a single domain can
        merge.

    References
    ----------
    Korsunsky et al. 2019, algorithm 2: shares are updated block by block, so that the penalty follows them.
    """
    present_ND = F.one_hot(domain_N).to(cell_NZ)
    expected_D = present_ND.mean(0)
    share_NK = torch.softmax(-_squared_distance(cell_NZ, center_KZ) / WIDTH, 1)
    count_KD = share_NK.T @ present_ND
    previous = float("inf")
    for _ in range(N_UPDATES):
        center_KZ = (share_NK.T @ cell_NZ) / share_NK.sum(0).clamp(min=1e-8)[:, None]
        distance_NK = _squared_distance(cell_NZ, center_KZ)
        for row_B in torch.randperm(len(cell_NZ), generator=generator).chunk(N_BLOCKS):
            count_KD -= share_NK[row_B].T @ present_ND[row_B]
            repelled_KD = _penalty(count_KD, expected_D, max_attraction)
            share_BK = torch.softmax(-distance_NK[row_B] / WIDTH - repelled_KD[:, domain_N[row_B]].T, 1)
            share_NK[row_B] = share_BK
            count_KD += share_BK.T @ present_ND[row_B]
        mean_distance = float((share_NK * distance_NK).sum(1).mean())
        if abs(previous - mean_distance) < 1e-4 * mean_distance:
            break
        previous = mean_distance
    return Clusters(share_NK, center_KZ)


def remove_domain_effects(cell_NZ: Tensor, domain_N: Tensor, share_NK: Tensor) -> Tensor:
    """Return cells less the effects of their domain, weighted by their shares in the clusters.

    The effect of a domain in a cluster is the distance of its mean from the mean of the domains' means, shrunk to 0 where the domain has
    few cells. With the same penalty for all domains, these are the coefficients of a ridge regression of cells on domains whose intercept
    is not penalized (Korsunsky et al. 2019, algorithm 3). Here, the penalty grows with the cells that a domain lacks in the cluster,
    compared with its share of all cells.

    Parameters
    ----------
    cell_NZ
        (n_cells, n_latent).
    domain_N
        (n_cells,) domain codes.
    share_NK
        (n_cells, n_clusters) share of each cell in each cluster.
    """
    codes = torch.unique(domain_N)
    weight_KD = torch.stack([share_NK[domain_N == code].sum(0) for code in codes], 1)
    sum_KDZ = torch.stack([share_NK[domain_N == code].T @ cell_NZ[domain_N == code] for code in codes], 1)
    mean_KDZ = sum_KDZ / weight_KD.clamp(min=1e-8)[:, :, None]
    share_D = torch.stack([(domain_N == code).sum() for code in codes]) / len(domain_N)
    missing_KD = (weight_KD.sum(1, keepdim=True) * share_D - weight_KD).clamp(min=0)
    shrunk_KD = weight_KD / (weight_KD + RIDGE + RIDGE_PER_MISSING * missing_KD)
    # With the same penalty for all domains, the normal equations of the ridge regression have this solution, since a cell has one domain.
    # With a larger penalty of scarce domains, their intercept would be drawn to the stray cells, and this one is not.
    intercept_KZ = (shrunk_KD[:, :, None] * mean_KDZ).sum(1) / shrunk_KD.sum(1).clamp(min=1e-8)[:, None]
    effect_KDZ = shrunk_KD[:, :, None] * (mean_KDZ - intercept_KZ[:, None])
    corrected_NZ = cell_NZ.clone()
    for i, code in enumerate(codes):
        own_N = domain_N == code
        corrected_NZ[own_N] -= share_NK[own_N] @ effect_KDZ[:, i]
    return corrected_NZ


def _squared_distance(cell_NZ: Tensor, other_MZ: Tensor) -> Tensor:
    squared_NM = cell_NZ.square().sum(1)[:, None] + other_MZ.square().sum(1) - 2 * cell_NZ @ other_MZ.T
    return squared_NM.clamp_(min=0)


def _penalty(count_KD: Tensor, expected_D: Tensor, max_attraction: float) -> Tensor:
    """Return how much each cluster repels the cells of each domain, (n_clusters, n_domains)."""
    expected_KD = count_KD.sum(1, keepdim=True) * expected_D
    penalty_KD = DIVERSITY * torch.log((count_KD + 1) / (expected_KD + 1))
    return penalty_KD.clamp_(min=-max_attraction)
