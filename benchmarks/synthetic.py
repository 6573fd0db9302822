"""Random cells, of which only shape and density matter."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any, TypeAlias

import numpy as np
import pandas as pd
from scipy import sparse

from scalex import RnaRecipe, ScalexDataModule, ScalexModule
from scalex.cells.in_memory import InMemoryCells
from scalex.data import CellBatch
from scalex.model.trained_on import TrainedOn

__all__ = ["DENSITY", "N_FEATURES", "make_counts", "make_data", "make_module", "repeat_minibatches"]

N_FEATURES = 2000
# Share of values above 0, which is about that of variable genes in droplet data.
DENSITY = 0.07
SEED = 124
# Cells that are made at a time; the dense random numbers of a chunk take 40 MB.
CHUNK = 5000
# Returns counts of a number of cells and features, given a random generator between the two.
MakeCounts: TypeAlias = Callable[[int, np.random.Generator, int], sparse.csr_matrix]


def make_counts(n_cells: int, rng: np.random.Generator, n_features: int = N_FEATURES) -> sparse.csr_matrix:
    """Return random counts as (n_cells, n_features) CSR float32 of density `DENSITY`."""
    return sparse.vstack([_make_chunk(min(CHUNK, n_cells - first), n_features, rng) for first in range(0, n_cells, CHUNK)], format="csr")


def _make_chunk(n_cells: int, n_features: int, rng: np.random.Generator) -> sparse.csr_matrix:
    detected = rng.random((n_cells, n_features), dtype=np.float32) < DENSITY
    _, column = np.nonzero(detected)
    pointer = np.concatenate([[0], np.cumsum(detected.sum(1))])
    counts = 1 + rng.poisson(1.0, len(column))
    return sparse.csr_matrix((counts.astype(np.float32), column.astype(np.int32), pointer.astype(np.int32)), (n_cells, n_features))


def make_data(
    n_cells: int, *, n_domains: int, batch_size: int, n_features: int = N_FEATURES, make: MakeCounts = make_counts
) -> ScalexDataModule:
    """Return a data module of random counts, preprocessed as RNA and ready for training.

    Parameters
    ----------
    n_cells
        Number of cells.
    n_domains
        Number of domains, from which each cell gets a random one.
    batch_size
        Maximal number of cells in a minibatch.
    n_features
        Number of features.
    make
        Function that makes the counts.
    """
    rng = np.random.default_rng(SEED)
    matrix = make(n_cells, rng, n_features)
    obs = pd.DataFrame(index=[f"cell-{i}" for i in range(n_cells)])
    var = pd.DataFrame(index=[f"gene-{i}" for i in range(n_features)])
    domain = pd.Categorical.from_codes(rng.integers(n_domains, size=n_cells), [f"domain-{i}" for i in range(n_domains)])
    cells = InMemoryCells(matrix, obs, var, domain)
    fitted = RnaRecipe(min_features=0, n_top_features=n_features).fit(cells)
    data = ScalexDataModule(cells, fitted, batch_size=batch_size, seed=SEED)
    data.setup("fit")
    return data


def make_module(data: ScalexDataModule, **options: Any) -> ScalexModule:
    """Return a module for `data` with the schedule of ``model=scalex``, and other options."""
    module = ScalexModule(lr=2e-3, schedule="one_cycle", seed=SEED, **options)
    module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), version("scalex")), data)
    return module


def repeat_minibatches(data: ScalexDataModule) -> Iterator[CellBatch]:
    """Yield the minibatches of one epoch after the other, each gathered when it is needed."""
    while True:
        yield from data.train_dataloader()
