"""Fixtures that several folders of tests use."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
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
    """Exempt all present objects from garbage collection, each run of which would take longer than many tests."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep unpacked references out of the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SCALEX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def _demo() -> AnnData:
    return demo_cells(300, 500, 3)


@pytest.fixture
def demo(_demo: AnnData) -> AnnData:
    """Return a copy of 300 cells x 500 features in 3 domains."""
    return _demo.copy()


@pytest.fixture
def demo_in_memory(demo: AnnData) -> InMemoryCells:
    return AnnDataSource(path=demo, batch_key="batch").open()


class Trained(NamedTuple):
    """A finished run with its cells, and a query. Tests that change the folder must copy it.

    `cells` are of two domains; the training dropped a few with too few features. `query` holds the cells of a third domain.
    """

    folder: Path
    cells: AnnData
    query: AnnData
    min_features: int

    @property
    def exported(self) -> AnnData:
        return ad.read_h5ad(self.folder / "adata.h5ad")


@pytest.fixture(scope="session")
def _train(tmp_path_factory: pytest.TempPathFactory) -> Callable[[bool], Trained]:
    from scalex import SCALEX

    both = demo_cells(480, 450, 3)
    is_query = (both.obs["batch"] == "domain2").to_numpy()
    cells, query = both[~is_query].copy(), both[is_query].copy()
    min_features = int(np.sort(np.diff(cells.X.indptr))[5])
    runs: dict[bool, Trained] = {}

    def train(is_eval: bool) -> Trained:
        if is_eval not in runs:
            folder = tmp_path_factory.mktemp("trained") / "run"
            SCALEX(
                cells, min_features=min_features, n_top_features=200, max_iteration=150, lr=1e-3, eval=is_eval, outdir=folder,
                ignore_umap=not is_eval, show=False,
            )  # fmt: skip
            runs[is_eval] = Trained(folder, cells, query, min_features)
        return runs[is_eval]

    return train


@pytest.fixture(scope="session")
def trained(_train: Callable[[bool], Trained]) -> Trained:
    """Return a run with running statistics, UMAP and clusters."""
    return _train(True)


@pytest.fixture(scope="session")
def trained_by_domain(_train: Callable[[bool], Trained]) -> Trained:
    """Return a run with encoder statistics of each domain, without UMAP and clusters."""
    return _train(False)


@pytest.fixture
def find_real() -> Callable[[str], Path]:
    """Return a function that finds a file of real cells by its name, and skips the test if there is none."""

    def find(name: str) -> Path:
        path = Path(os.environ.get("SCALEX_DATA", ROOT.parent / "shared" / "data")) / name
        if not path.is_file():
            pytest.skip(f"no real cells at {path} (set SCALEX_DATA)")
        return path

    return find


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Return a function that serves content from this machine and returns its address.

    `sent` bytes are sent before the server hangs up; with `ends`, it is gone before the first request.
    `parts`: whether it sends the rest of a file; `says_size`: whether it says how much it sends.
    `requests` gets the first byte of each answer.
    """
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    servers: list[ThreadingHTTPServer] = []

    def start(
        content: bytes, *, sent: int | None = None, ends: bool = False, parts: bool = True, says_size: bool = True,
        requests: list[int] | None = None,
    ) -> str:  # fmt: skip
        requests = [] if requests is None else requests

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if self.path != "/atlas.zip":
                    self.send_error(404)
                    return
                asked = self.headers.get("Range")
                start = int(asked.removeprefix("bytes=").removesuffix("-")) if asked and parts else 0
                if start > len(content):
                    self.send_error(416)
                    return
                requests.append(start)
                self.send_response(206 if start else 200)
                if says_size:
                    self.send_header("Content-Length", str(len(content) - start))
                self.end_headers()
                self.wfile.write(content[start : start + (len(content) if sent is None else sent)])

            def log_message(self, *_: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        if ends:
            server.server_close()
        else:
            servers.append(server)
            Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        return f"http://127.0.0.1:{server.server_port}/atlas.zip"

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def make_cells() -> Callable[..., InMemoryCells]:
    """Return a function that makes cells from a dense or sparse matrix and the domain of each cell."""

    def make(values: object, domain: Sequence[str] | None = None, features: Sequence[str] | None = None) -> InMemoryCells:
        matrix = sparse.csr_matrix(values, dtype=np.float32)
        n_cells, n_features = matrix.shape
        obs = pd.DataFrame(index=[f"c{i}" for i in range(n_cells)])
        var = pd.DataFrame(index=list(features) if features is not None else [f"g{i}" for i in range(n_features)])
        return InMemoryCells(matrix, obs, var, pd.Categorical(domain if domain is not None else ["all"] * n_cells))

    return make
