"""Embeddings by other methods: principal components, Harmony, scVI and the published package."""

from __future__ import annotations

import logging
import subprocess
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from time import process_time
from typing import Any, NamedTuple, Self

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
from numpy.typing import NDArray
from scipy import sparse
from sklearn.decomposition import TruncatedSVD

from benchmarks.quality.sets import Kind, LabelledCells, centred_log_ratio

__all__ = [
    "Embedding",
    "Peer",
    "embed_by_harmony",
    "embed_by_pca",
    "embed_by_published",
    "embed_by_scanvi",
    "embed_by_scvi",
    "list_peers",
    "run_query_script",
]

# Folder of the scripts for the interpreters of the other packages.
SCRIPTS = Path(__file__).resolve().parents[1] / "peers"
N_COMPONENTS = 30
N_FEATURES = 2000


class Embedding(NamedTuple):
    """Coordinates of cells.

    Attributes
    ----------
    names
        (n_cells,) names of the cells.
    latent
        (n_cells, n_dimensions) coordinates.
    training_seconds, whole_seconds
        Processor time of training alone and with reading, preprocessing and embedding; NaN if unknown.
    """

    names: NDArray[np.str_]
    latent: NDArray[np.float32]
    training_seconds: float = float("nan")
    whole_seconds: float = float("nan")

    def select(self, names: NDArray[np.str_]) -> NDArray[np.float32]:
        """Return (len(names), n_dimensions) coordinates of these cells, all of which must be present."""
        row = {name: i for i, name in enumerate(self.names)}
        return np.asarray(self.latent[[row[name] for name in names]], np.float32)

    def save(self, path: Path) -> None:
        """Write the embedding at once, so that a stopped run leaves no partial file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.savez(file, **self._asdict())
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return an embedding that `save` has written."""
        with np.load(path) as stored:
            return cls(stored["names"], stored["latent"], float(stored["training_seconds"]), float(stored["whole_seconds"]))

    @classmethod
    def load_bench(cls, path: Path, key: str) -> Self:
        """Return an embedding from elsewhere, stored under `key` with "names" and perhaps "seconds" (wall time of the whole run)."""
        with np.load(path) as stored:
            return cls(stored["names"], stored[key], whole_seconds=float(stored["seconds"]) if "seconds" in stored else float("nan"))


class Peer(NamedTuple):
    """A method of another package.

    Attributes
    ----------
    name
        Name in tables.
    short
        Name in names of files.
    seed
        Seed of the run.
    stored
        Subfolder and key of embeddings from elsewhere, which need not be computed.
    embed
        Function that embeds cells. If None, the method cannot run here.
    """

    name: str
    short: str
    seed: int
    stored: tuple[str, str]
    embed: Callable[[LabelledCells], Embedding] | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """Return `seed` as the only seed."""
        return (self.seed,)

    @property
    def is_ours(self) -> bool:
        """See `Method.is_ours`."""
        return False

    def key(self, cells: LabelledCells, seed: int) -> str:
        """Return a name of what an embedding depends on."""
        return f"{self.short}-{cells.fingerprint}-{seed}"

    def run(self, cells: LabelledCells, seed: int) -> Embedding | None:
        """Return the embedding, or None if it cannot be computed here."""
        return None if self.embed is None else self.embed(cells)


def list_peers(scvi_interpreter: str | None, published_interpreter: str | None) -> list[Peer]:
    """Return all peers; two need an interpreter that has their package."""
    by_scvi = partial(embed_by_scvi, interpreter=scvi_interpreter, seed=0) if scvi_interpreter else None
    # 124 is the default seed of the package.
    by_published = partial(embed_by_published, interpreter=published_interpreter, seed=124) if published_interpreter else None
    return [
        Peer("PCA", "pca", 0, ("peers", "pca"), embed_by_pca),
        Peer("Harmony", "harmony", 0, ("peers", "harmony"), embed_by_harmony),
        Peer("scVI", "scvi", 0, ("peers", "scvi"), by_scvi),
        Peer("published package", "published", 124, ("published", "latent"), by_published),
    ]


def embed_by_pca(cells: LabelledCells) -> Embedding:
    """Return 30 components of log-normalized variable features, centred log-ratios of proteins or latent semantic indexing of peaks."""
    start = process_time()
    if cells.kind == "atac":
        latent = _index_peaks(cells.adata.X)
    else:
        latent = sc.pp.pca(
            centred_log_ratio(cells.adata.X) if cells.kind == "adt" else _normalize_variable(cells.adata), n_comps=N_COMPONENTS
        )
    return Embedding(cells.adata.obs_names.to_numpy(str), latent, whole_seconds=process_time() - start)


def _index_peaks(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return components 2 to 31 of the TF-IDF of peaks in at least 3 cells; the first is the depth (Cusanovich et al., Science 348:910)."""
    accessible = sparse.csr_matrix(counts > 0, dtype=np.float64)
    n_cells = np.asarray(accessible.sum(0)).ravel()
    accessible, n_cells = accessible[:, n_cells >= 3], n_cells[n_cells >= 3]
    frequency = accessible.multiply(1e4 / accessible.sum(1)).multiply(len(counts.indptr) / n_cells).tocsr()
    latent = TruncatedSVD(N_COMPONENTS + 1, algorithm="arpack", random_state=0).fit_transform(frequency.log1p())
    return np.asarray(latent[:, 1:], np.float32)


def embed_by_harmony(cells: LabelledCells) -> Embedding:
    """Return the result of Harmony with its defaults on principal components; for one domain, the components themselves."""
    components = embed_by_pca(cells)
    if cells.adata.obs["batch"].nunique() == 1:
        return components
    # The import is here, since the package is under the GPL and optional.
    import harmonypy

    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    start = process_time()
    batch = cells.adata.obs[["batch"]].astype(str)
    corrected = np.asarray(harmonypy.run_harmony(components.latent.astype(np.float64), batch, "batch", verbose=False).Z_corr)
    # harmonypy 2 gives cells as rows, earlier versions as columns.
    latent = corrected if corrected.shape == components.latent.shape else corrected.T
    seconds = process_time() - start
    return Embedding(components.names, latent.astype(np.float32), seconds, components.whole_seconds + seconds)


def embed_by_scvi(cells: LabelledCells, *, interpreter: str, seed: int) -> Embedding:
    """Return the latents of scVI for counts of the variable features."""
    adata = cells.adata if cells.kind == "adt" else _select_variable(cells.adata)
    found = _run_script(adata, interpreter, "scvi.py", str(seed))
    return Embedding(found["names"], found["latent"], training_seconds=float(found["seconds"]))


def embed_by_scanvi(cells: LabelledCells, label: pd.Series, *, interpreter: str, seed: int) -> Embedding:
    """Return the latents of scANVI, which also learns from labels; cells with a missing label are of unknown type."""
    adata = cells.adata if cells.kind == "adt" else _select_variable(cells.adata)
    adata = ad.AnnData(adata.X, obs=adata.obs.assign(label=label.astype(object).fillna("unknown")), var=adata.var)
    found = _run_script(adata, interpreter, "scvi.py", str(seed), "labels")
    return Embedding(found["names"], found["latent"], training_seconds=float(found["seconds"]))


def embed_by_published(cells: LabelledCells, *, interpreter: str, seed: int) -> Embedding:
    """Return the latents of the published package; proteins are centred log-ratios minus the minimum of each protein."""
    proteins = cells.kind == "adt"
    adata = cells.adata
    if proteins:
        ratio = centred_log_ratio(adata.X)
        adata = ad.AnnData(sparse.csr_matrix(ratio - ratio.min(0)), obs=adata.obs, var=adata.var)
    arguments = [str(seed), str(cells.min_features), *(["processed"] if proteins else [])]
    found = _run_script(adata, interpreter, "published.py", *arguments)
    return Embedding(found["names"], found["latent"], whole_seconds=float(found["seconds"]))


def run_query_script(
    reference: ad.AnnData, query: ad.AnnData, kind: Kind, interpreter: str, script: str, seed: int
) -> dict[str, NDArray[Any]]:
    """Return what a script for projections writes: the latents of "reference" and "query".

    Both sides get the reference's variable features, of which features that the query lacks are left out for both.

    Parameters
    ----------
    reference, query
        Cells with counts, and with obs "batch".
    kind
        Kind of the features.
    interpreter, script, seed
        Interpreter, name and seed of the script.
    """
    common = reference[:, reference.var_names.isin(query.var_names)].copy()
    common = common if kind == "adt" else _select_variable(common)
    with TemporaryDirectory() as folder:
        files = [Path(folder) / name for name in ("reference.h5ad", "query.h5ad", "latents.npz")]
        for side, file in zip((common, query[:, common.var_names]), files, strict=False):
            ad.AnnData(sparse.csr_matrix(side.X), obs=side.obs[["batch"]].astype(str), var=side.var[[]]).write_h5ad(file)
        _run([interpreter, "-I", str(SCRIPTS / script), *map(str, files), str(seed)], folder)
        with np.load(files[-1]) as found:
            return {name: found[name] for name in found.files}


def _run(command: list[str], folder: str) -> None:
    """Run a script of another interpreter, which finds its own packages instead of the scripts of the same names (-I)."""
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)


def _select_variable(adata: ad.AnnData) -> ad.AnnData:
    """Return counts of the features that vary most within domains, or of all features in at least 3 cells if those are few."""
    counts = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 3].copy()
    if counts.n_vars <= N_FEATURES:
        return counts
    normalized = _normalize(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.highly_variable_genes(normalized, n_top_genes=N_FEATURES, batch_key="batch")
    return counts[:, normalized.var["highly_variable"].to_numpy(bool)].copy()


def _normalize_variable(adata: ad.AnnData) -> sparse.csr_matrix:
    """Return log-normalized variable features; the size of a cell is the sum over all its features."""
    return _normalize(adata)[:, _select_variable(adata).var_names].X


def _normalize(counts: ad.AnnData) -> ad.AnnData:
    normalized = counts.copy()
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    return normalized


def _run_script(adata: ad.AnnData, interpreter: str, script: str, *arguments: str) -> dict[str, NDArray[Any]]:
    """Return the arrays that one of the scripts writes for the cells."""
    with TemporaryDirectory() as folder:
        cells, latents = Path(folder) / "cells.h5ad", Path(folder) / "latents.npz"
        # Older versions of anndata can read annotation as text.
        simple = ad.AnnData(sparse.csr_matrix(adata.X), obs=adata.obs.astype(str), var=adata.var[[]])
        simple.write_h5ad(cells)
        _run([interpreter, "-I", str(SCRIPTS / script), str(cells), str(latents), *arguments], folder)
        with np.load(latents) as found:
            return {name: found[name] for name in found.files}
