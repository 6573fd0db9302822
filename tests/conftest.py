"""Fixtures that several folders of tests use."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse

from scalex.cells import AnnDataSource, InMemoryCells
from scalex.demo import demo_cells

ROOT = Path(__file__).parents[1]


def pytest_collection_finish() -> None:
    """Lay aside what is there by now: each search for garbage would go through it, and takes longer than many a test."""
    gc.collect()
    gc.freeze()


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


class Trained(NamedTuple):
    """A finished run, what it was given, and cells it has not seen. Not to be changed: tests that change the folder copy it.

    `cells` are those of two domains; the training left out a few that are poor in features. `query` are those of a third domain.
    """

    folder: Path
    cells: AnnData
    query: AnnData
    min_features: int

    @property
    def exported(self) -> AnnData:
        return ad.read_h5ad(self.folder / "adata.h5ad")


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Trained]:
    from scalex import SCALEX

    both = demo_cells(480, 450, 3)
    is_query = (both.obs["batch"] == "domain2").to_numpy()
    cells, query = both[~is_query].copy(), both[is_query].copy()
    least = int(np.sort(np.diff(cells.X.indptr))[5])
    made: dict[bool, Trained] = {}

    def trained(is_eval: bool) -> Trained:
        if is_eval not in made:
            folder = tmp_path_factory.mktemp("trained") / "run"
            SCALEX(
                cells, min_features=least, n_top_features=200, max_iteration=150, lr=1e-3, eval=is_eval, outdir=folder,
                ignore_umap=not is_eval, show=False,
            )  # fmt: skip
            made[is_eval] = Trained(folder, cells, query, least)
        return made[is_eval]

    return trained


@pytest.fixture(scope="session")
def trained(_trained: Callable[[bool], Trained]) -> Trained:
    """A run with running statistics, UMAP and clusters."""
    return _trained(True)


@pytest.fixture(scope="session")
def trained_by_domain(_trained: Callable[[bool], Trained]) -> Trained:
    """The same with the encoder's statistics of each domain, without UMAP and clusters."""
    return _trained(False)


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
