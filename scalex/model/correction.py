"""Latents without the differences between domains, which the encoder then learns.

Dimension letters: N cells, M cells of a sample, K clusters, D domains, Z latent dimensions.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Self

import torch
from torch import Tensor
from torch.nn import functional as F

from scalex.model.mixed_clusters import MAX_ATTRACTION, first_centers, mixed_clusters, remove_domain_effects

__all__ = [
    "LEAST_MOVE",
    "N_NEIGHBORS",
    "N_ROUNDS",
    "DomainCorrection",
    "average_neighbors",
    "complete_types",
    "correction_targets",
    "sample_rows",
]

# With more cells, clusters are found in a sample, and the other cells follow their neighbours in it.
MAX_CELLS = 20_000
# Fewest cells of a domain in the sample, unless there are too many domains.
MIN_DOMAIN_CELLS = 200
N_NEIGHBORS = 15
N_ROUNDS = 10
# Mean squared distance, where the spread is 1, that ends the rounds.
LEAST_MOVE = 1e-4
# Share of the way that a cell moves to the mean of its neighbours.
SMOOTHING = 0.4
# Share of the way that a cell of known type moves to the mean of its type.
TYPE_SMOOTHING = 0.5
# Distances in a table that stays in the processor's cache while the smallest are found.
TABLE_SIZE = 1 << 20


class DomainCorrection(NamedTuple):
    """Correction of latents for their domains, fitted to a sample of M cells.

    Attributes
    ----------
    center_Z, scale
        Mean of the latents, and root of their total variance: one scale for all dimensions, which keeps ratios of distances.
    own_MZ, corrected_MZ
        The sample before and after the correction, centred and scaled.
    domain_M, row_M
        Domain codes, and rows among all cells, ascending.
    """

    center_Z: Tensor
    scale: Tensor
    own_MZ: Tensor
    corrected_MZ: Tensor
    domain_M: Tensor
    row_M: Tensor

    @classmethod
    def fit(cls, latent_MZ: Tensor, domain_M: Tensor, row_M: Tensor, *, seed: int, attract: bool) -> Self:
        """Fit the correction to a sample; the parameters are those of `correction_targets`."""
        center_Z = latent_MZ.mean(0)
        scale = latent_MZ.var(0, correction=0).sum().sqrt().clamp(min=1e-12)
        own_MZ = (latent_MZ - center_Z) / scale
        generator = torch.Generator().manual_seed(seed)
        corrected_MZ = _correct(own_MZ, domain_M, seed, generator, MAX_ATTRACTION if attract else 0.0)
        return cls(center_Z, scale, own_MZ, corrected_MZ, domain_M, row_M)

    def correct(self, latent_CZ: Tensor, domain_C: Tensor, row_C: Tensor) -> Tensor:
        """Return latents without the differences between domains, (n_cells, n_latent), centred and scaled.

        A cell outside the sample moves like its neighbours of the same domain in it.

        Parameters
        ----------
        latent_CZ, domain_C, row_C
            Latents, domain codes and rows of the cells.
        """
        scaled_CZ = (latent_CZ - self.center_Z) / self.scale
        position_C = torch.searchsorted(self.row_M, row_C).clamp(max=len(self.row_M) - 1)
        other_C = self.row_M[position_C] != row_C
        corrected_CZ = self.corrected_MZ[position_C]
        if other_C.any():
            shift_MZ = self.corrected_MZ - self.own_MZ
            cells = scaled_CZ[other_C]
            corrected_CZ[other_C] = cells + _shift_of_neighbors(cells, domain_C[other_C], self.own_MZ, shift_MZ, self.domain_M)
        return corrected_CZ

    def targets(self, latent_CZ: Tensor, domain_C: Tensor, row_C: Tensor) -> Tensor:
        """Return the result of `correction_targets` without labels for some cells; the parameters are those of `correct`."""
        corrected_CZ = self.correct(latent_CZ, domain_C, row_C)
        return self.in_units(torch.lerp(corrected_CZ, average_neighbors(corrected_CZ, self.corrected_MZ, N_NEIGHBORS), SMOOTHING))

    def in_units(self, scaled_CZ: Tensor) -> Tensor:
        """Return centred and scaled values in the units of the latents."""
        return scaled_CZ * self.scale + self.center_Z


def correction_targets(latent_NZ: Tensor, domain_N: Tensor, *, seed: int, attract: bool = True, label_N: Tensor | None = None) -> Tensor:
    """Return latents without the differences between domains and with less noise.

    Each round finds soft clusters in which the domains are mixed, and removes the effect of each domain on them by ridge regression
    (Korsunsky et al. 2019). Harmony differs in two ways. Here clusters use the Euclidean distance, since the length of a latent has a
    meaning, and are found among means of neighbours, in which types lie farther apart than in single cells. In the end, each cell moves
    part of the way to the mean of its neighbours of all domains, which removes noise that the encoder could not learn.

    Parameters
    ----------
    latent_NZ
        (n_cells, n_latent) float32.
    domain_N
        (n_cells,) int64 domain codes.
    seed
        Seed of the sample and the clusters.
    attract
        Whether clusters without a domain attract its cells, up to `MAX_ATTRACTION`. In latents that were corrected before, types of a
        single domain would then merge.
    label_N
        (n_cells,) int64 codes of labels, -1 for none; None: there are no labels. With labels, the effect of a domain on each type is
        removed too, and cells move `TYPE_SMOOTHING` of the way to the mean of their type instead of their neighbours'. A cell without a
        label counts as one of the type of most of its neighbours.

    Returns
    -------
    (n_cells, n_latent) float32, in the units of `latent_NZ`.

    References
    ----------
    Korsunsky et al., Fast, sensitive and accurate integration of single-cell data with Harmony, Nature Methods 16:1289 (2019).
    """
    row_M = sample_rows(domain_N, torch.Generator().manual_seed(seed))
    correction = DomainCorrection.fit(latent_NZ[row_M], domain_N[row_M], row_M, seed=seed, attract=attract)
    row_N = torch.arange(len(latent_NZ))
    if label_N is None or not (label_N >= 0).any():
        return correction.targets(latent_NZ, domain_N, row_N)
    corrected_NZ = correction.correct(latent_NZ, domain_N, row_N)
    type_N = complete_types(corrected_NZ, label_N, torch.Generator().manual_seed(seed))
    corrected_NZ = remove_domain_effects(corrected_NZ, domain_N, F.one_hot(type_N).to(corrected_NZ))
    return correction.in_units(torch.lerp(corrected_NZ, _type_means(corrected_NZ, type_N)[type_N], TYPE_SMOOTHING))


def complete_types(cell_NZ: Tensor, label_N: Tensor, generator: torch.Generator) -> Tensor:
    """Return the type of each cell: its label, or the type of most of its nearest neighbours in a sample of labelled cells.

    Parameters
    ----------
    cell_NZ
        (n_cells, n_latent).
    label_N
        (n_cells,) int64 type codes, -1 for none.
    generator
        Random numbers of the sample.

    Returns
    -------
    (n_cells,) int64 type codes.
    """
    unknown_N = label_N < 0
    if not unknown_N.any():
        return label_N
    row_M = torch.nonzero(~unknown_N).flatten()
    row_M = row_M[sample_rows(label_N[row_M], generator)]
    label_M = label_N[row_M]
    parts = _nearest(cell_NZ[unknown_N], cell_NZ[row_M], N_NEIGHBORS)
    type_N = label_N.clone()
    type_N[unknown_N] = torch.cat([label_M[nearest_BM].mode(1).values for nearest_BM in parts])
    return type_N


def average_neighbors(cell_NZ: Tensor, among_MZ: Tensor, n_neighbors: int) -> Tensor:
    """Return the mean of each cell's nearest cells in `among_MZ`, (n_cells, n_latent). A cell is its own neighbour where it is in there."""
    return torch.cat([among_MZ[nearest_BM].mean(1) for nearest_BM in _nearest(cell_NZ, among_MZ, n_neighbors)])


def _type_means(cell_NZ: Tensor, type_N: Tensor) -> Tensor:
    """Return the mean of the cells of each type, (n_types, n_latent)."""
    count_K = torch.bincount(type_N).clamp(min=1)
    return cell_NZ.new_zeros(len(count_K), cell_NZ.shape[1]).index_add_(0, type_N, cell_NZ) / count_K[:, None]


def _correct(cell_MZ: Tensor, domain_M: Tensor, seed: int, generator: torch.Generator, max_attraction: float) -> Tensor:
    """Return cells without the effects of their domains, found in clusters of neighbours' means."""
    smooth_MZ = average_neighbors(cell_MZ, cell_MZ, N_NEIGHBORS)
    center_KZ, mixed_MZ = first_centers(smooth_MZ, seed), smooth_MZ
    for _ in range(N_ROUNDS):
        clusters = mixed_clusters(mixed_MZ, domain_M, center_KZ, generator, max_attraction)
        last_MZ, mixed_MZ = mixed_MZ, remove_domain_effects(smooth_MZ, domain_M, clusters.share_NK)
        center_KZ = clusters.center_KZ
        if float((mixed_MZ - last_MZ).square().sum(1).mean()) < LEAST_MOVE:
            break
    return remove_domain_effects(cell_MZ, domain_M, clusters.share_NK)


def _shift_of_neighbors(cell_NZ: Tensor, domain_N: Tensor, own_MZ: Tensor, shift_MZ: Tensor, domain_M: Tensor) -> Tensor:
    """Return the mean shift of each cell's nearest sampled cells of its domain, (n_cells, n_latent)."""
    shift_NZ = torch.empty_like(cell_NZ)
    for code in torch.unique(domain_N):
        own_N, own_M = domain_N == code, domain_M == code
        among_MZ, shifts_MZ = own_MZ[own_M], shift_MZ[own_M]
        parts = [shifts_MZ[nearest_BM].mean(1) for nearest_BM in _nearest(cell_NZ[own_N], among_MZ, N_NEIGHBORS)]
        shift_NZ[own_N] = torch.cat(parts)
    return shift_NZ


def _nearest(cell_NZ: Tensor, among_MZ: Tensor, n_neighbors: int) -> Iterator[Tensor]:
    """Yield the nearest rows of `among_MZ` for each cell, block by block: (n_cells of the block, n_neighbors)."""
    # Squared distances, without the square of the cell itself, which does not change the order.
    squared_M = among_MZ.square().sum(1)
    for cell_BZ in torch.split(cell_NZ, max(TABLE_SIZE // len(among_MZ), 1)):
        table_BM = torch.addmm(squared_M, cell_BZ, among_MZ.T, alpha=-2)
        yield table_BM.topk(min(n_neighbors, len(among_MZ)), largest=False).indices


def sample_rows(domain_N: Tensor, generator: torch.Generator) -> Tensor:
    """Return about `MAX_CELLS` ascending rows, never twice as many, in proportion to the domains (or types), but some of each."""
    n_cells = len(domain_N)
    if n_cells <= MAX_CELLS:
        return torch.arange(n_cells)
    codes = torch.unique(domain_N)
    n_least = min(MIN_DOMAIN_CELLS, MAX_CELLS // len(codes))
    drawn = []
    for code in codes:
        row_N = torch.nonzero(domain_N == code).flatten()
        n_drawn = min(len(row_N), max(len(row_N) * MAX_CELLS // n_cells, n_least))
        drawn.append(row_N[torch.randperm(len(row_N), generator=generator)[:n_drawn]])
    return torch.cat(drawn).sort().values
