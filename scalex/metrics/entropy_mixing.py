"""Batch entropy mixing: how evenly domains are spread over neighbourhoods."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.neighbors import NearestNeighbors
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["BatchEntropyMixing", "batch_entropy_mixing", "neighbor_entropy"]


def batch_entropy_mixing(latent: NDArray[np.float32], domain: ArrayLike, *, n_neighbors: int = 100) -> float:
    """Return the mean of `neighbor_entropy` over the cells: 1 is perfect mixing, 0 is none.

    The published SCALEX mixes natural and binary logarithms, so its values are at most ln 2 = 0.693, and it samples cells at random.
    Multiply a value by ln 2 to compare it with published ones.

    Parameters, errors and references are those of `neighbor_entropy`.
    """
    return float(neighbor_entropy(latent, domain, n_neighbors=n_neighbors).mean())


def neighbor_entropy(latent: NDArray[np.float32], domain: ArrayLike, *, n_neighbors: int = 100) -> NDArray[np.float64]:
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

    Raises
    ------
    ValueError
        With fewer than two domains.

    References
    ----------
    Haghverdi et al., Nature Biotechnology 36:421 (2018); normalized by domain size in Xiong et al. (2022).
    """
    _, code = np.unique(np.asarray(domain), return_inverse=True)
    count = np.bincount(code)
    if len(count) < 2:
        raise ValueError("Entropy mixing needs at least two domains; there is one.")
    n_neighbors = min(n_neighbors, len(code) - 1)
    # Without a query, the search excludes each cell from its own neighbours.
    neighbors = NearestNeighbors(n_neighbors=n_neighbors).fit(latent).kneighbors(return_distance=False)
    share = np.stack([(code[neighbors] == d).mean(1) for d in range(len(count))], axis=1) / (count / len(code))
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
