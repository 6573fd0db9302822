"""Simulated cells with known types, for the demo, the tests and the documentation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, TypeAlias

import numpy as np
import pandas as pd
from anndata import AnnData
from annotated_types import Ge
from scipy import sparse

from scalex.cells import AnnDataSource, Cells
from scalex.system.settings import Count, Seed, check_call

__all__ = ["DemoSource", "demo_cells"]

TYPES = ("alpha", "beta", "gamma", "delta", "stem", "rare")
SHARES = np.array([0.22, 0.20, 0.16, 0.12, 0.25, 0.05])
# Cells of this type lie along a path from one program to another instead of around one point.
CONTINUOUS = "stem"
# With fewer, types have no cells or no features of their own.
NumberOfCells: TypeAlias = Annotated[int, Ge(10)]
NumberOfFeatures: TypeAlias = Annotated[int, Ge(400)]
MISSING_IN_LAST = "delta"  # absent from the last domain
ONLY_IN_FIRST = "rare"  # present only in the first domain


@check_call
def demo_cells(n_cells: NumberOfCells = 3000, n_features: NumberOfFeatures = 2000, n_domains: Count = 3, *, seed: Seed = 124) -> AnnData:
    """Simulate counts of `n_cells` cells of known types in `n_domains` domains.

    The model, for cell c of domain d and feature g::

        log rate[c, g] = base[g] + sum over programs p of activity[c, p] * program[p, g] + shift[d, g]
        depth[c]       ~ LogNormal(log depth[d], 0.3)
        count[c, g]    ~ NegativeBinomial(mean = depth[c] * softmax(log rate[c])[g], dispersion = 2)
        count[c, g]    = 0 with the dropout probability of domain d (0 to 0.3)

    Each type has a program of 60 features. Cells of type "stem" lie on a path along which the activity moves from their own program to
    the program of "alpha" (``obs["path"]`` in [0, 1]). Domains differ in the expression of every feature (`shift`, standard deviation
    0.6), in depth and in dropout, so that they lie apart without integration. Type "delta" is missing from the last domain; type "rare"
    is only in the first.

    Parameters
    ----------
    n_cells, n_features, n_domains
        At least 10, 400 and 1.
    seed
        Seed of the simulation.

    Returns
    -------
    AnnData
        X: (n_cells, n_features) CSR float32 counts. obs: "batch" (the domain), "cell_type", "path" (NaN but for stem cells).
    """
    rng = np.random.default_rng(seed)
    domain = np.sort(rng.integers(n_domains, size=n_cells))
    kind = np.array([rng.choice(len(TYPES), p=_compute_shares(d, n_domains)) for d in domain])
    path = np.where(kind == TYPES.index(CONTINUOUS), rng.random(n_cells), np.nan)

    programs = np.zeros((len(TYPES), n_features))
    features = rng.permutation(n_features)
    for p in range(len(TYPES)):
        programs[p, features[p * 60 : (p + 1) * 60]] = rng.gamma(4, 0.45, 60)
    activity = np.eye(len(TYPES))[kind] * rng.normal(1, 0.1, (n_cells, 1))
    on_path = ~np.isnan(path)
    activity[on_path, TYPES.index(CONTINUOUS)] *= 1 - path[on_path]
    activity[on_path, TYPES.index("alpha")] = path[on_path]

    base = rng.normal(-1, 1.2, n_features)
    shift = rng.normal(0, 0.6, (n_domains, n_features))
    log_rate = base + activity @ programs + shift[domain]
    rate = np.exp(log_rate)
    rate /= rate.sum(1, keepdims=True)
    depth = rng.lognormal(np.log(np.geomspace(9000, 5000, n_domains))[domain], 0.3)
    mean = depth[:, None] * rate
    counts = rng.poisson(rng.gamma(2, mean / 2))
    loss = np.linspace(0, 0.3, n_domains)[domain]
    counts[rng.random(counts.shape) < loss[:, None]] = 0

    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"domain{d}" for d in domain]),
            "cell_type": pd.Categorical(np.array(TYPES)[kind]),
            "path": path,
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    var = pd.DataFrame(index=[f"gene{i}" for i in range(n_features)])
    return AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=var)


def _compute_shares(domain: int, n_domains: int) -> np.ndarray:
    """Return the share of each type in a domain."""
    shares = SHARES.copy()
    if domain == n_domains - 1 and n_domains > 1:
        shares[TYPES.index(MISSING_IN_LAST)] = 0
    if domain > 0:
        shares[TYPES.index(ONLY_IN_FIRST)] = 0
    normalized: np.ndarray = shares / shares.sum()
    return normalized


@check_call
@dataclass(frozen=True, kw_only=True)
class DemoSource:
    """`demo_cells` as a source of cells, with the same parameters.

    Parameters
    ----------
    n_cells
        Number of simulated cells.
    n_features
        Number of genes.
    n_domains
        Number of domains.
    seed
        Seed of the cells.
    """

    n_cells: NumberOfCells = 3000
    n_features: NumberOfFeatures = 2000
    n_domains: Count = 3
    seed: Seed = 124

    def open(self) -> Cells:
        """Simulate the cells."""
        adata = demo_cells(self.n_cells, self.n_features, self.n_domains, seed=self.seed)
        return AnnDataSource(path=adata, batch_key="batch").open()
