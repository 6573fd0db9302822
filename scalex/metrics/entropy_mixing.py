"""Batch entropy mixing: how evenly domains are spread over neighbourhoods."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from scalex.metrics.neighbors import find_nearest

__all__ = ["BatchEntropyMixing", "SharedMixing", "batch_entropy_mixing", "neighbor_entropy", "shared_mixing"]

# A group has a domain if the domain's share of the group is at least this part of its share of all cells.
MIN_PRESENCE = 0.1


class SharedMixing(NamedTuple):
    """Mixing of the domains in the groups of cells that several domains have.

    Attributes
    ----------
    mixed
        Mean `neighbor_entropy` of the cells of such groups, divided by the largest that their numbers allow: in [0, 1], NaN if there are
        none. Groups of one domain do not count, since their cells have nothing to be mixed with.
    shared
        Share of all cells that are in such groups.
    """

    mixed: float
    shared: float


def batch_entropy_mixing(
    latent: NDArray[np.float32], domain: ArrayLike, *, n_neighbors: int = 100, nearest: NDArray[np.int64] | None = None
) -> float:
    """Return the mean of `neighbor_entropy` over the cells: 1 is perfect mixing, 0 is none.

    The published SCALEX mixes natural and binary logarithms, so its values are at most ln 2 = 0.693, and it samples cells at random.
    Multiply a value by ln 2 to compare it with published ones.

    Parameters, errors and references are those of `neighbor_entropy`.
    """
    return float(neighbor_entropy(latent, domain, n_neighbors=n_neighbors, nearest=nearest).mean())


def neighbor_entropy(
    latent: NDArray[np.float32], domain: ArrayLike, *, n_neighbors: int = 100, nearest: NDArray[np.int64] | None = None
) -> NDArray[np.float64]:
    """Return the entropy of the domains among each cell's neighbours, (n_cells,) in [0, 1].

    Each domain's share among the neighbours, without the cell itself, is divided by its share of all cells. The quotients are
    normalized to sum 1, and their entropy is divided by the logarithm of the number of domains.

    Parameters
    ----------
    latent
        (n_cells, n_dimensions).
    domain
        (n_cells,) domain of each cell, at least two different ones.
    n_neighbors
        Number of neighbours of a cell, at most n_cells - 1.
    nearest
        The result of `find_nearest` for at least as many neighbours, if it is known.

    Raises
    ------
    ValueError
        With fewer than two domains.

    References
    ----------
    Haghverdi et al., Nature Biotechnology 36:421 (2018); normalized by domain size in Xiong et al. (2022).
    """
    code, nearest = _find_domains(latent, domain, n_neighbors, nearest)
    return _entropy(code[nearest], np.bincount(code))


def shared_mixing(
    latent: NDArray[np.float32],
    domain: ArrayLike,
    group: ArrayLike,
    *,
    n_neighbors: int = 30,
    nearest: NDArray[np.int64] | None = None,
    seed: int = 124,
) -> SharedMixing:
    """Return how well the domains are mixed where a group of cells has several.

    Parameters
    ----------
    latent, domain, n_neighbors, nearest
        As for `neighbor_entropy`.
    group
        (n_cells,) the type or cluster of each cell.
    seed
        Seed of the permutation of domains within the groups, whose entropy is the largest that the numbers allow.

    Raises
    ------
    ValueError
        With fewer than two domains.
    """
    code, nearest = _find_domains(latent, domain, n_neighbors, nearest)
    _, kind = np.unique(np.asarray(group), return_inverse=True)
    count = np.bincount(code)
    of_group = np.zeros((kind.max() + 1, len(count)))
    np.add.at(of_group, (kind, code), 1)
    present = of_group / of_group.sum(1, keepdims=True) >= MIN_PRESENCE * count / len(code)
    inside = (present.sum(1) > 1)[kind] & present[kind, code]
    if not inside.any():
        return SharedMixing(float("nan"), 0.0)
    # A stable sort by group of a random order permutes the cells within the groups.
    shuffled = np.random.default_rng(seed).permutation(len(code))
    permuted = np.empty_like(code)
    permuted[np.argsort(kind, kind="stable")] = code[shuffled[np.argsort(kind[shuffled], kind="stable")]]
    near = nearest[inside]
    found, largest = _entropy(code[near], count).mean(), _entropy(permuted[near], count).mean()
    return SharedMixing(float(min(found / largest, 1.0)) if largest > 0 else float("nan"), float(inside.mean()))


def _find_domains(
    latent: NDArray[np.float32], domain: ArrayLike, n_neighbors: int, nearest: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the code of each cell's domain, and the rows of its nearest neighbours, (n_cells, n_neighbors)."""
    names, code = np.unique(np.asarray(domain), return_inverse=True)
    if len(names) < 2:
        raise ValueError("Entropy mixing needs at least two domains; there is one.")
    return code, (find_nearest(latent, n_neighbors) if nearest is None else nearest)[:, :n_neighbors]


def _entropy(near: NDArray[np.int64], count: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the entropy of the domains of each cell's neighbours, with shares divided by those of all cells, in [0, 1]."""
    share = np.stack([(near == d).mean(1) for d in range(len(count))], axis=1) / (count / count.sum())
    share /= share.sum(1, keepdims=True)
    entropy = -np.sum(share * np.log(share, where=share > 0, out=np.zeros_like(share)), axis=1)
    return np.asarray(entropy / np.log(len(count)))


class BatchEntropyMixing(Metric):
    """`batch_entropy_mixing` over minibatches of latents (n_cells, n_dimensions) and domain codes (n_cells,)."""

    full_state_update = False
    higher_is_better = True
    latent: list[Tensor]
    domain: list[Tensor]

    def __init__(self, n_neighbors: int = 100, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.n_neighbors = n_neighbors
        self.add_state("latent", default=[], dist_reduce_fx="cat")
        self.add_state("domain", default=[], dist_reduce_fx="cat")

    def update(self, latent: Tensor, domain: Tensor) -> None:
        """Add cells."""
        self.latent.append(latent)
        self.domain.append(domain)

    def compute(self) -> Tensor:
        """Return the score of all cells added."""
        latent, domain = dim_zero_cat(self.latent), dim_zero_cat(self.domain)
        return torch.tensor(batch_entropy_mixing(latent.cpu().numpy(), domain.cpu().numpy(), n_neighbors=self.n_neighbors))
