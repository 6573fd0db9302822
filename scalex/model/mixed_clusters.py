"""Soft clusters in which the domains are mixed, and cells without the effect of their domain in each (Korsunsky et al. 2019).

Dimension letters: N cells, K clusters, D domains, Z latent dimensions, B cells of a block.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["MOST_ATTRACTION", "Clusters", "mixed_clusters", "remove_domain_effects"]

# Width of a soft cluster, where the mean squared distance of two cells is 2. Wider, cells are drawn to clusters of other types.
WIDTH = 0.03
# Strength of the penalty on clusters in which a domain is over-represented.
DIVERSITY = 2.0
# Most that it attracts cells to clusters that lack their domain. Without a limit, types of one domain alone are put on each other.
MOST_ATTRACTION = 2.0
UPDATES = 20
BLOCKS = 20
# Strength of the ridge penalty on the effect of a domain in a cluster, in cells.
RIDGE = 1.0


class Clusters(NamedTuple):
    """Soft clusters: share of each cell in each, (n_cells, n_clusters) of sum 1, and their centres (n_clusters, n_latent)."""

    share_NK: Tensor
    center_KZ: Tensor


def mixed_clusters(
    cell_NZ: Tensor, domain_N: Tensor, center_KZ: Tensor, generator: torch.Generator, most_attraction: float = MOST_ATTRACTION
) -> Clusters:
    """Soft k-means in which a cluster that a domain is over-represented in repels the cells of that domain.

    Parameters
    ----------
    cell_NZ
        (n_cells, n_latent), of total variance 1.
    domain_N
        (n_cells,) domain codes.
    center_KZ
        (n_clusters, n_latent) centres to start from.
    generator
        Of the order in which cells are looked at again.
    most_attraction
        Most that a cluster which lacks a domain attracts its cells, at least 0. Without a limit, as in Harmony, types of one domain alone
        are put on each other.

    References
    ----------
    Korsunsky et al. 2019, algorithm 2: shares are updated block by block, so that the penalty follows them.
    """
    present_ND = F.one_hot(domain_N).to(cell_NZ)
    expected_D = present_ND.mean(0)
    share_NK = torch.softmax(-_squared_distance(cell_NZ, center_KZ) / WIDTH, 1)
    found_KD = share_NK.T @ present_ND
    last = float("inf")
    for _ in range(UPDATES):
        center_KZ = (share_NK.T @ cell_NZ) / share_NK.sum(0).clamp(min=1e-8)[:, None]
        distance_NK = _squared_distance(cell_NZ, center_KZ)
        for row_B in torch.randperm(len(cell_NZ), generator=generator).chunk(BLOCKS):
            found_KD -= share_NK[row_B].T @ present_ND[row_B]
            repelled_KD = _penalty(found_KD, expected_D, most_attraction)
            share_BK = torch.softmax(-distance_NK[row_B] / WIDTH - repelled_KD[:, domain_N[row_B]].T, 1)
            share_NK[row_B] = share_BK
            found_KD += share_BK.T @ present_ND[row_B]
        mean_distance = float((share_NK * distance_NK).sum(1).mean())
        if abs(last - mean_distance) < 1e-4 * mean_distance:
            break
        last = mean_distance
    return Clusters(share_NK, center_KZ)


def remove_domain_effects(cell_NZ: Tensor, domain_N: Tensor, share_NK: Tensor) -> Tensor:
    """Cells less the effect of their domain, weighted by their shares in the clusters.

    In each cluster a ridge regression of the cells on their domains, with an intercept that is not penalized, gives the effect of each
    domain (Korsunsky et al. 2019, algorithm 3).

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
    # Each cell is of one domain, so the normal equations have this solution: the intercept is a mean of the domains' means, and the
    # effect of a domain is its distance from that, drawn to 0 where the domain has few cells.
    drawn_KD = weight_KD / (weight_KD + RIDGE)
    intercept_KZ = (drawn_KD[:, :, None] * mean_KDZ).sum(1) / drawn_KD.sum(1).clamp(min=1e-8)[:, None]
    effect_KDZ = drawn_KD[:, :, None] * (mean_KDZ - intercept_KZ[:, None])
    corrected_NZ = cell_NZ.clone()
    for i, code in enumerate(codes):
        own_N = domain_N == code
        corrected_NZ[own_N] -= share_NK[own_N] @ effect_KDZ[:, i]
    return corrected_NZ


def _squared_distance(cell_NZ: Tensor, other_MZ: Tensor) -> Tensor:
    squared_NM = cell_NZ.square().sum(1)[:, None] + other_MZ.square().sum(1) - 2 * cell_NZ @ other_MZ.T
    return squared_NM.clamp_(min=0)


def _penalty(found_KD: Tensor, expected_D: Tensor, most_attraction: float) -> Tensor:
    """How much a cell of each domain is repelled by each cluster, (n_clusters, n_domains)."""
    expected_KD = found_KD.sum(1, keepdim=True) * expected_D
    penalty_KD = DIVERSITY * torch.log((found_KD + 1) / (expected_KD + 1))
    return penalty_KD.clamp_(min=-most_attraction)
