"""Fixtures that several folders of tests use."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scalex.cells import AnnDataSource, InMemoryCells
from scalex.demo import demo_cells

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def _demo() -> AnnData:
    return demo_cells(300, 500, 3)


@pytest.fixture
def demo(_demo: AnnData) -> AnnData:
    """300 cells x 500 features in 3 domains; each test has its own copy."""
    return _demo.copy()


@pytest.fixture
def demo_in_memory(demo: AnnData) -> InMemoryCells:
    return AnnDataSource(path=demo, batch_key="batch").open()


@pytest.fixture
def real() -> Callable[[str], Path]:
    """Path of a file of real cells by its name; skips where it is not there."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("SCALEX_DATA", ROOT.parent / "shared" / "data")) / name
        if not path.is_file():
            pytest.skip(f"no real cells at {path} (set SCALEX_DATA)")
        return path

    return find


@pytest.fixture
def make_cells() -> Callable[..., InMemoryCells]:
    """Cells from a dense or sparse matrix and the name of each cell's domain."""

    def make(values: object, domain: Sequence[str] | None = None, features: Sequence[str] | None = None) -> InMemoryCells:
        matrix = sparse.csr_matrix(values, dtype=np.float32)
        n_cells, n_features = matrix.shape
        obs = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
        var = pd.DataFrame(index=list(features) if features is not None else [f"g{i}" for i in range(n_features)])
        return InMemoryCells(matrix, obs, var, pd.Categorical(domain if domain is not None else ["all"] * n_cells))

    return make
