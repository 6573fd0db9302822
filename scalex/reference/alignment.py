"""Alignment of new latents with those of a reference, which do not move.

Dimension letters: M cells of the reference, N new cells of one domain, C of both, K clusters, Z latent dimensions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from scalex.model.correction import LEAST_MOVE, N_NEIGHBORS, N_ROUNDS, average_neighbors
from scalex.model.mixed_clusters import MAX_ATTRACTION, RIDGE, RIDGE_PER_MISSING, first_centers, mixed_clusters

__all__ = ["Aligned", "align", "compute_agreement", "compute_likeness"]

# Alignments one after another. Each finds new clusters.
N_ALIGNMENTS = 3
# Cells of each side for which the spread of a cluster is changed half of the way.
RIDGE_OF_SPREAD = 5.0
# Largest change of a spread.
MAX_FACTOR = 2.5
# Smallest variance, where the spread of the reference is 1.
MIN_VARIANCE = 1e-4
# Share of the mean variance that is added to all directions of a covariance.
COVARIANCE_RIDGE = 0.02
# Squared difference of inputs, in variances within regions of the reference, at which cells count as half alike.
HALF_ALIKE = 0.35


class Aligned(NamedTuple):
    """Aligned cells.

    Attributes
    ----------
    latent_NZ
        (n_cells, n_latent) float32 latents among those of the reference.
    shared_N
        (n_cells,) in [0, 1], how far the reference has cells of the same clusters. The others moved with the domain as a whole.
    """

    latent_NZ: Tensor
    shared_N: Tensor


def align(latent_NZ: Tensor, reference_MZ: Tensor, *, seed: int, like_N: Tensor | None = None) -> Aligned:
    """Move the cells of a new domain to where the reference's cells of the same clusters lie.

    As in the corrections of the training, clusters are found in which both sides are mixed. In each, the new cells get the mean and the
    spread of the reference's, and at last, in all clusters together, its covariance within clusters. Where one side has few cells, they
    move with the domain as a whole instead, since most of a technology's effect is common to all types. So a type that the reference lacks
    is not drawn onto another.

    Parameters
    ----------
    latent_NZ
        (n_cells, n_latent) float32 latents of new cells.
    reference_MZ
        (n_reference, n_latent) float32 latents of the reference.
    seed
        Seed of the clusters.
    like_N
        (n_cells,) in [0, 1], how alike new cells and the reference's cells of their clusters are. Those that are not alike move with the
        domain as a whole. None: all are alike.
    """
    like_N = latent_NZ.new_ones(len(latent_NZ)) if like_N is None else like_N
    center_Z, scale = reference_MZ.mean(0), reference_MZ.var(0, correction=0).sum().sqrt().clamp(min=1e-12)
    fixed_MZ, cell_NZ = (reference_MZ - center_Z) / scale, (latent_NZ - center_Z) / scale
    smooth_MZ = average_neighbors(fixed_MZ, fixed_MZ, N_NEIGHBORS)
    generator = torch.Generator().manual_seed(seed)
    shared_N = cell_NZ.new_zeros(len(cell_NZ))
    for n_done in range(N_ALIGNMENTS):
        attraction = MAX_ATTRACTION if n_done == 0 else 0.0
        share_CK = _find_clusters(cell_NZ, smooth_MZ, like_N, attraction, seed, generator)
        shift = _Shift.of(cell_NZ, fixed_MZ, share_CK, like_N)
        share_NK = share_CK[len(fixed_MZ) :]
        cell_NZ = shift.apply(cell_NZ, share_NK)
        if n_done == N_ALIGNMENTS - 1:
            # Earlier, it would bring types that the reference lacks closer to others, and the next clusters would hold both.
            cell_NZ = _turn(cell_NZ, fixed_MZ, share_CK, shift.shared_K)
        cell_NZ = _scale(cell_NZ, fixed_MZ, share_CK, like_N)
        shared_N = share_NK @ shift.shared_K
    return Aligned(cell_NZ * scale + center_Z, shared_N)


def _find_clusters(
    cell_NZ: Tensor, smooth_MZ: Tensor, like_N: Tensor, max_attraction: float, seed: int, generator: torch.Generator
) -> Tensor:
    """Return the shares of the reference's cells and then of the new ones in clusters of both, (n_cells, n_clusters)."""
    smooth_NZ = average_neighbors(cell_NZ, cell_NZ, N_NEIGHBORS)
    domain_C = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([len(smooth_MZ), len(smooth_NZ)]))
    center_KZ, moved_NZ = first_centers(torch.cat([smooth_MZ, smooth_NZ]), seed), smooth_NZ
    for _ in range(N_ROUNDS):
        clusters = mixed_clusters(torch.cat([smooth_MZ, moved_NZ]), domain_C, center_KZ, generator, max_attraction)
        center_KZ, share_NK = clusters.center_KZ, clusters.share_NK[len(smooth_MZ) :]
        last_NZ, moved_NZ = moved_NZ, _Shift.of(smooth_NZ, smooth_MZ, clusters.share_NK, like_N).apply(smooth_NZ, share_NK)
        if float((moved_NZ - last_NZ).square().sum(1).mean()) < LEAST_MOVE:
            break
    return clusters.share_NK


def compute_agreement(own: NDArray[np.floating], matched: NDArray[np.floating], group: NDArray[np.integer]) -> float:
    """Return how well groups of cells differ from each other as the cells do that they are matched with, in [-1, 1].

    Where types have changed places, it is near 0. A difference between technologies that is common to all groups has no effect.

    Parameters
    ----------
    own, matched
        (n_cells, n_components) coordinates of cells, and of those that they are matched with, that do not come from the latents.
    group
        (n_cells,) codes of groups of similar cells.

    Returns
    -------
    Correlation of the groups' means after the mean of all cells is subtracted, weighted by the groups' sizes; 0 if there is one group.
    """
    codes, place, count = np.unique(group, return_inverse=True, return_counts=True)
    means = []
    for part in (own, matched):
        sums = np.zeros((len(codes), part.shape[1]))
        np.add.at(sums, place, part.astype(np.float64))
        means.append((sums / count[:, None] - part.mean(0, dtype=np.float64)) * np.sqrt(count)[:, None])
    size = float(np.linalg.norm(means[0]) * np.linalg.norm(means[1]))
    return float((means[0] * means[1]).sum()) / size if size else 0.0


def compute_likeness(
    own: NDArray[np.floating],
    matched: NDArray[np.floating],
    group: NDArray[np.integer],
    weight: NDArray[np.floating],
    whitening: NDArray[np.floating],
) -> NDArray[np.float64]:
    """Return how alike new cells and those are that they are matched with, (n_cells,) in [0, 1], the same for all cells of a group.

    The difference between the domain and the reference that is common to all cells has no effect.

    Parameters
    ----------
    own, matched, group
        As in `compute_agreement`.
    weight
        (n_cells,) weights in the common difference, at least 0.
    whitening
        (n_components, n_components), by which coordinates have unit variance within regions of the reference.
    """
    difference = np.asarray(matched, np.float64) - own
    off = (difference - np.average(difference, axis=0, weights=np.asarray(weight, np.float64) + 1e-12)) @ whitening
    _, place, count = np.unique(group, return_inverse=True, return_counts=True)
    sums = np.zeros((len(count), off.shape[1]))
    np.add.at(sums, place, off)
    # The mean of n cells differs from its expectation by 1 / n of the variance.
    squared = np.maximum(np.square(sums / count[:, None]).mean(1) - 1 / count, 0)
    likeness: NDArray[np.float64] = (1 / (1 + (squared / HALF_ALIKE) ** 4))[place]
    return likeness


class _Shift(NamedTuple):
    """The shift of each cluster, (n_clusters, n_latent), and how far it is the cluster's own, (n_clusters,)."""

    shift_KZ: Tensor
    shared_K: Tensor

    @classmethod
    def of(cls, cell_NZ: Tensor, fixed_MZ: Tensor, share_CK: Tensor, like_N: Tensor) -> _Shift:
        share_MK, share_NK = share_CK[: len(fixed_MZ)], share_CK[len(fixed_MZ) :]
        own_K, other_K = share_NK.sum(0), share_MK.sum(0)
        expected_K = (own_K + other_K) * len(cell_NZ) / len(share_CK)
        # The penalties are those of the corrections of the training: they grow with the cells that a side lacks.
        lacks_K = (expected_K - own_K).abs()
        own_lacks_K, other_lacks_K = lacks_K * (own_K < expected_K), lacks_K * (own_K > expected_K)
        shared_K = own_K / (own_K + RIDGE + RIDGE_PER_MISSING * own_lacks_K)
        shared_K = shared_K * other_K / (other_K + RIDGE + RIDGE_PER_MISSING * other_lacks_K)
        shared_K = shared_K * _means(like_N[:, None], share_NK)[:, 0]
        difference_KZ = _means(fixed_MZ, share_MK) - _means(cell_NZ, share_NK)
        weight_K1 = (shared_K * own_K)[:, None]
        common_Z = (weight_K1 * difference_KZ).sum(0) / weight_K1.sum().clamp(min=1e-8)
        return cls(torch.lerp(common_Z.expand_as(difference_KZ), difference_KZ, shared_K[:, None]), shared_K)

    def apply(self, cell_NZ: Tensor, share_NK: Tensor) -> Tensor:
        return cell_NZ + share_NK @ self.shift_KZ


def _turn(cell_NZ: Tensor, fixed_MZ: Tensor, share_CK: Tensor, shared_K: Tensor) -> Tensor:
    """Return the new cells with the reference's covariance within clusters, by one linear map of the differences to clusters' means.

    Of all maps with this result, it moves normally distributed cells least (optimal transport: Peyré & Cuturi, Computational Optimal
    Transport, 2019, remark 2.31).
    """
    share_MK, share_NK = share_CK[: len(fixed_MZ)], share_CK[len(fixed_MZ) :]
    own_ZZ, other_ZZ = _covariance(cell_NZ, share_NK, shared_K), _covariance(fixed_MZ, share_MK, shared_K)
    root_ZZ, inverse_ZZ = _power(own_ZZ, 0.5), _power(own_ZZ, -0.5)
    map_ZZ = inverse_ZZ @ _power(root_ZZ @ other_ZZ @ root_ZZ, 0.5) @ inverse_ZZ
    mean_NZ = share_NK @ _means(cell_NZ, share_NK)
    return mean_NZ + ((cell_NZ - mean_NZ).double() @ map_ZZ).to(cell_NZ.dtype)


def _covariance(cell_CZ: Tensor, share_CK: Tensor, shared_K: Tensor) -> Tensor:
    """Return the covariance within clusters, (n_latent, n_latent) float64, in which shared clusters count more."""
    within_CZ, weight_C1 = cell_CZ - share_CK @ _means(cell_CZ, share_CK), (share_CK @ shared_K)[:, None]
    own_ZZ = (within_CZ * weight_C1).double().T @ within_CZ.double() / weight_C1.double().sum().clamp(min=1e-12)
    mean = own_ZZ.diagonal().mean() + MIN_VARIANCE / len(own_ZZ)
    return own_ZZ + COVARIANCE_RIDGE * mean * torch.eye(len(own_ZZ), dtype=own_ZZ.dtype)


def _power(symmetric_ZZ: Tensor, exponent: float) -> Tensor:
    value_Z, axes_ZZ = torch.linalg.eigh(symmetric_ZZ)
    power_ZZ: Tensor = (axes_ZZ * value_Z.clamp(min=1e-12) ** exponent) @ axes_ZZ.T
    return power_ZZ


def _scale(cell_NZ: Tensor, fixed_MZ: Tensor, share_CK: Tensor, like_N: Tensor) -> Tensor:
    """Return the new cells with the spread of the reference in each dimension of each cluster."""
    share_MK, share_NK = share_CK[: len(fixed_MZ)], share_CK[len(fixed_MZ) :]
    own_K, other_K = share_NK.sum(0), share_MK.sum(0)
    strength_K = own_K / (own_K + RIDGE_OF_SPREAD) * other_K / (other_K + RIDGE_OF_SPREAD)
    strength_K = strength_K * _means(like_N[:, None], share_NK)[:, 0]
    log_ratio_KZ = (_variances(fixed_MZ, share_MK) / _variances(cell_NZ, share_NK)).log()
    factor_KZ = torch.exp(strength_K[:, None] * log_ratio_KZ / 2).clamp(1 / MAX_FACTOR, MAX_FACTOR)
    mean_NZ = share_NK @ _means(cell_NZ, share_NK)
    return mean_NZ + (share_NK @ factor_KZ) * (cell_NZ - mean_NZ)


def _means(cell_CZ: Tensor, share_CK: Tensor) -> Tensor:
    """Return the mean of each cluster, (n_clusters, n_latent)."""
    return share_CK.T @ cell_CZ / share_CK.sum(0).clamp(min=1e-8)[:, None]


def _variances(cell_CZ: Tensor, share_CK: Tensor) -> Tensor:
    """Return the variance of each dimension of each cluster, (n_clusters, n_latent)."""
    squares_KZ = _means(cell_CZ.square(), share_CK) - _means(cell_CZ, share_CK).square()
    return squares_KZ.clamp(min=0) + MIN_VARIANCE
