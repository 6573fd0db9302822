"""Simulated cells of many types in many domains, as in an atlas, of which no real set is at hand."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.quality.sets import LabelledCells

__all__ = ["simulate_atlas"]

TYPES_PER_LINEAGE = 6
# Features of the program of a lineage, and of a type in it.
LINEAGE_FEATURES, TYPE_FEATURES = 80, 30
# Standard deviations of the logarithms of rates between domains, and between the domains of one lineage.
DOMAIN_SHIFT, LINEAGE_SHIFT = 0.5, 0.15
# Share of the types that a domain lacks.
MISSING = 0.3
MEAN_DEPTH = 700.0
DISPERSION = 4.0
CHUNK = 5000


def simulate_atlas(
    n_cells: int = 30_000, n_types: int = 60, n_domains: int = 40, n_features: int = 2000, *, seed: int = 0, settings: tuple[str, ...] = ()
) -> LabelledCells:
    """Simulate counts of types in lineages; the frequencies of types and domains differ by a factor of up to a hundred.

    The model, for cell c of type t, lineage l and domain d, and feature g::

        log rate[g]  = base[g] + lineage program[l, g] + type program[t, g] + shift[d, g] + shift[d, l, g]
        count[c, g]  ~ NegativeBinomial(mean = depth[c] * softmax(log rate)[g], dispersion = 4)

    Parameters
    ----------
    n_cells, n_types, n_domains, n_features
        Sizes.
    seed
        Seed of all random numbers.
    settings
        Further overrides for train.py.
    """
    rng = np.random.default_rng(seed)
    n_lineages = max(n_types // TYPES_PER_LINEAGE, 1)
    lineage = np.concatenate([np.arange(n_lineages), rng.integers(n_lineages, size=n_types - n_lineages)])
    program = rng.normal(-1, 1.2, n_features) + np.zeros((n_types, n_features))
    program += _draw_programs(rng, n_lineages, n_features, LINEAGE_FEATURES, 4.0)[lineage]
    program += _draw_programs(rng, n_types, n_features, TYPE_FEATURES, 3.0) * rng.choice([1, -1], (n_types, n_features), p=[0.75, 0.25])
    shift = rng.normal(0, DOMAIN_SHIFT, (n_domains, 1, n_features)) + rng.normal(0, LINEAGE_SHIFT, (n_domains, n_lineages, n_features))

    frequency = rng.lognormal(0, 1.2, n_types) * rng.lognormal(0, 0.5, (n_domains, n_types))
    frequency[rng.random(frequency.shape) < MISSING] = 0
    size = rng.lognormal(0, 0.8, n_domains)
    domain = rng.choice(n_domains, n_cells, p=size / size.sum())
    kind = np.array([rng.choice(n_types, p=frequency[d] / frequency[d].sum()) for d in domain])
    depth = MEAN_DEPTH * rng.lognormal(0, 0.3, n_domains)[domain] * rng.lognormal(0, 0.35, n_cells)

    parts = []
    for first in range(0, n_cells, CHUNK):
        rows = slice(first, first + CHUNK)
        rate = np.exp(program[kind[rows]] + shift[domain[rows], lineage[kind[rows]]])
        mean = depth[rows, None] * rate / rate.sum(1, keepdims=True)
        parts.append(sparse.csr_matrix(rng.poisson(mean * rng.gamma(DISPERSION, 1 / DISPERSION, mean.shape)).astype(np.float32)))
    obs = pd.DataFrame(
        {
            "batch": pd.Categorical([f"domain{d:02d}" for d in domain]),
            "cell_type": pd.Categorical([f"lineage{lineage[t]} type{t:02d}" for t in kind]),
        },
        index=[f"cell{i}" for i in range(n_cells)],
    )
    adata = ad.AnnData(sparse.vstack(parts, format="csr"), obs=obs, var=pd.DataFrame(index=[f"gene{i}" for i in range(n_features)]))
    return LabelledCells(f"{n_types} types in {n_domains} domains", adata, 10, "rna", settings)


def _draw_programs(rng: np.random.Generator, n: int, n_features: int, n_of_each: int, shape: float) -> NDArray[np.float64]:
    """Return programs of some features each, (n, n_features): gamma variates of the given shape and scale .45, and 0 elsewhere."""
    programs = np.zeros((n, n_features))
    for one in programs:
        one[rng.choice(n_features, n_of_each, replace=False)] = rng.gamma(shape, 0.45, n_of_each)
    return programs
