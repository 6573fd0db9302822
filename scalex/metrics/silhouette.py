"""Silhouette: how much closer cells lie to their own group than to the next."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from sklearn.metrics import silhouette_score
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

__all__ = ["Silhouette", "silhouette"]


def silhouette(latent: NDArray[np.float32], group: ArrayLike, *, max_cells: int = 10_000, seed: int = 124) -> float:
    """Return the mean silhouette width of the cells in [-1, 1]: 1 means that groups are compact and far apart (Rousseeuw 1987).

    Parameters
    ----------
    latent
        (n_cells, n_dimensions).
    group
        (n_cells,) group of each cell, between 2 and n_cells - 1 different ones.
    max_cells
        Largest number of cells; above it a sample is used, since the cost is quadratic.
    seed
        Seed of the sample.

    Raises
    ------
    ValueError
        If there are too few or too many groups.
    """
    groups = np.asarray(group)
    n_groups = len(np.unique(groups))
    if not 2 <= n_groups <= len(groups) - 1:
        raise ValueError(f"The silhouette needs between 2 and n_cells - 1 groups; there are {n_groups} for {len(groups)} cells.")
    size = max_cells if len(groups) > max_cells else None
    return float(silhouette_score(latent, groups, sample_size=size, random_state=seed))


class Silhouette(Metric):
    """`silhouette` over minibatches of latents (n_cells, n_dimensions) and group codes (n_cells,)."""

    full_state_update = False
    higher_is_better = True
    latent: list[Tensor]
    group: list[Tensor]

    def __init__(self, max_cells: int = 10_000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.max_cells = max_cells
        self.add_state("latent", default=[], dist_reduce_fx="cat")
        self.add_state("group", default=[], dist_reduce_fx="cat")

    def update(self, latent: Tensor, group: Tensor) -> None:
        """Add cells."""
        self.latent.append(latent)
        self.group.append(group)

    def compute(self) -> Tensor:
        """Return the score of all cells added."""
        latent, group = dim_zero_cat(self.latent), dim_zero_cat(self.group)
        return torch.tensor(silhouette(latent.cpu().numpy(), group.cpu().numpy(), max_cells=self.max_cells))
