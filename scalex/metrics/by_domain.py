"""Mixing and kept neighbours of each domain, beside what they would be without and with perfect integration."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.metrics.entropy_mixing import neighbor_entropy
from scalex.metrics.kept_neighbors import kept_neighbors
from scalex.metrics.neighbors import find_nearest

__all__ = ["scores_by_domain"]

N_NEIGHBORS = 100


def scores_by_domain(latent: NDArray[np.float32], domain: pd.Categorical, before: NDArray[np.float32], *, seed: int = 124) -> pd.DataFrame:
    """Compare each domain's mixing before and after the integration, and what is left of its structure.

    Parameters
    ----------
    latent
        (n_cells, n_latent).
    domain
        (n_cells,) domain of each cell, at least two different ones.
    before
        (n_cells, n_components) principal components of the inputs.
    seed
        Seed of the permutation.

    Returns
    -------
    pd.DataFrame
        A row for each domain that has cells. "cells"; "inputs", "latents" and "permuted" in [0, 1], the mean `neighbor_entropy` of its
        cells in `before`, in `latent`, and in `latent` with permuted domains, which is all that mixing can reach; "kept", at most 1, the
        mean of `kept_neighbors`, NaN for fewer than ten cells.

    Raises
    ------
    ValueError
        With fewer than two domains.
    """
    domain = domain.remove_unused_categories()
    nearest = find_nearest(latent, N_NEIGHBORS)
    permuted = np.random.default_rng(seed).permutation(np.asarray(domain))
    of_cells = pd.DataFrame(
        {
            "inputs": neighbor_entropy(before, domain, n_neighbors=N_NEIGHBORS),
            "latents": neighbor_entropy(latent, domain, nearest=nearest),
            # The same for all domains, since none is different in a permutation.
            "permuted": neighbor_entropy(latent, permuted, nearest=nearest).mean(),
            "kept": kept_neighbors(before, latent, domain),
        }
    )
    grouped = of_cells.groupby(domain, observed=True)
    table = grouped.mean()
    table.insert(0, "cells", grouped.size())
    return table
