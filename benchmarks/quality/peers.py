"""Embeddings by other methods: principal components, Harmony, scVI, the published package."""

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

from benchmarks.quality.sets import LabelledCells, centred_log_ratio

__all__ = ["Embedding", "Peer", "harmony", "peers", "principal_components", "published", "scanvi", "scvi"]

# What the interpreters of the other packages run.
SCRIPTS = Path(__file__).resolve().parents[1] / "peers"
N_COMPONENTS = 30
N_FEATURES = 2000


class Embedding(NamedTuple):
    """Cells in a space.

    Attributes
    ----------
    names
        (n_cells,) names of the cells.
    latent
        (n_cells, n_dimensions).
    training_seconds, whole_seconds
        Processor time of training alone and with reading, preprocessing and embedding; not a number where it is not known.
    """

    names: NDArray[np.str_]
    latent: NDArray[np.float32]
    training_seconds: float = float("nan")
    whole_seconds: float = float("nan")

    def of(self, names: NDArray[np.str_]) -> NDArray[np.float32]:
        """(len(names), n_dimensions) coordinates of these cells, all of which must be there."""
        row = {name: i for i, name in enumerate(self.names)}
        return np.asarray(self.latent[[row[name] for name in names]], np.float32)

    def save(self, path: Path) -> None:
        """Write whole, so that a run that is stopped leaves no half of a file."""
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_suffix(".unfinished")
        with unfinished.open("wb") as file:
            np.savez(file, **self._asdict())
        unfinished.replace(path)

    @classmethod
    def load(cls, path: Path) -> Self:
        """The inverse of `save`."""
        with np.load(path) as kept:
            return cls(kept["names"], kept["latent"], float(kept["training_seconds"]), float(kept["whole_seconds"]))

    @classmethod
    def of_bench(cls, path: Path, key: str) -> Self:
        """What somebody stored under `key` beside "names" and perhaps "seconds" (of the whole run, by the clock)."""
        with np.load(path) as kept:
            return cls(kept["names"], kept[key], whole_seconds=float(kept["seconds"]) if "seconds" in kept else float("nan"))


class Peer(NamedTuple):
    """A method that is not ours.

    Attributes
    ----------
    name
        In tables.
    short
        In names of files.
    seed
        The one it is run with.
    stored
        Folder, in that of stored embeddings, and key of those that need not be computed again.
    embed
        From cells to their embedding; None: it can not be computed here.
    """

    name: str
    short: str
    seed: int
    stored: tuple[str, str]
    embed: Callable[[LabelledCells], Embedding] | None

    @property
    def seeds(self) -> tuple[int, ...]:
        """`seed`, as methods with several have it."""
        return (self.seed,)

    def key(self, cells: LabelledCells, seed: int) -> str:
        """Names what an embedding depends on."""
        return f"{self.short}-{cells.fingerprint}-{seed}"

    def run(self, cells: LabelledCells, seed: int) -> Embedding | None:
        """The embedding; None if it can not be computed here."""
        return None if self.embed is None else self.embed(cells)


def peers(scvi_interpreter: str | None, published_interpreter: str | None) -> list[Peer]:
    """All of them; two need an interpreter that has their package."""
    by_scvi = partial(scvi, interpreter=scvi_interpreter, seed=0) if scvi_interpreter else None
    # 124 is the package's own default.
    by_published = partial(published, interpreter=published_interpreter, seed=124) if published_interpreter else None
    return [
        Peer("PCA", "pca", 0, ("peers", "pca"), principal_components),
        Peer("Harmony", "harmony", 0, ("peers", "harmony"), harmony),
        Peer("scVI", "scvi", 0, ("peers", "scvi"), by_scvi),
        Peer("published package", "published", 124, ("published", "latent"), by_published),
    ]


def principal_components(cells: LabelledCells) -> Embedding:
    """30 of log-normalized variable features, of the centred log-ratio of proteins, or of the latent semantic indexing of peaks."""
    start = process_time()
    if cells.kind == "atac":
        latent = _latent_semantic_indexing(cells.adata.X)
    else:
        latent = sc.pp.pca(centred_log_ratio(cells.adata.X) if cells.kind == "adt" else _log_variable(cells.adata), n_comps=N_COMPONENTS)
    return Embedding(cells.adata.obs_names.to_numpy(str), latent, whole_seconds=process_time() - start)


def _latent_semantic_indexing(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """Components 2 to 31 of the TF-IDF of peaks in at least 3 cells; the first is that of depth (Cusanovich et al., Science 348:910)."""
    accessible = sparse.csr_matrix(counts > 0, dtype=np.float64)
    n_cells = np.asarray(accessible.sum(0)).ravel()
    accessible, n_cells = accessible[:, n_cells >= 3], n_cells[n_cells >= 3]
    frequency = accessible.multiply(1e4 / accessible.sum(1)).multiply(len(counts.indptr) / n_cells).tocsr()
    latent = TruncatedSVD(N_COMPONENTS + 1, algorithm="arpack", random_state=0).fit_transform(frequency.log1p())
    return np.asarray(latent[:, 1:], np.float32)


def harmony(cells: LabelledCells) -> Embedding:
    """Harmony with its defaults, on principal components; these themselves where there is one domain."""
    components = principal_components(cells)
    if cells.adata.obs["batch"].nunique() == 1:
        return components
    # Here, since it is under the GPL and need not be there.
    import harmonypy

    logging.getLogger("harmonypy").setLevel(logging.WARNING)
    start = process_time()
    batch = cells.adata.obs[["batch"]].astype(str)
    corrected = np.asarray(harmonypy.run_harmony(components.latent.astype(np.float64), batch, "batch", verbose=False).Z_corr)
    # harmonypy 2 gives cells as rows, earlier versions as columns.
    latent = corrected if corrected.shape == components.latent.shape else corrected.T
    seconds = process_time() - start
    return Embedding(components.names, latent.astype(np.float32), seconds, components.whole_seconds + seconds)


def scvi(cells: LabelledCells, *, interpreter: str, seed: int) -> Embedding:
    """Latents of scVI, from counts of the variable features."""
    given = cells.adata if cells.kind == "adt" else _variable(cells.adata)
    found = _by_interpreter(given, interpreter, "scvi.py", str(seed))
    return Embedding(found["names"], found["latent"], training_seconds=float(found["seconds"]))


def scanvi(cells: LabelledCells, label: pd.Series, *, interpreter: str, seed: int) -> Embedding:
    """Latents of scANVI, which learns from labels too; missing ones are those of cells of unknown type."""
    given = cells.adata if cells.kind == "adt" else _variable(cells.adata)
    given = ad.AnnData(given.X, obs=given.obs.assign(label=label.astype(object).fillna("unknown")), var=given.var)
    found = _by_interpreter(given, interpreter, "scvi.py", str(seed), "labels")
    return Embedding(found["names"], found["latent"], training_seconds=float(found["seconds"]))


def published(cells: LabelledCells, *, interpreter: str, seed: int) -> Embedding:
    """The published package; of proteins it gets the centred log-ratio, from the least value of each protein on."""
    proteins = cells.kind == "adt"
    given = cells.adata
    if proteins:
        ratio = centred_log_ratio(given.X)
        given = ad.AnnData(sparse.csr_matrix(ratio - ratio.min(0)), obs=given.obs, var=given.var)
    arguments = [str(seed), str(cells.min_features), *(["processed"] if proteins else [])]
    found = _by_interpreter(given, interpreter, "published.py", *arguments)
    return Embedding(found["names"], found["latent"], whole_seconds=float(found["seconds"]))


def _variable(adata: ad.AnnData) -> ad.AnnData:
    """Counts of the features that vary most within domains; of all in at least 3 cells where there are no more."""
    counts = adata[:, np.asarray((adata.X > 0).sum(0)).ravel() >= 3].copy()
    if counts.n_vars <= N_FEATURES:
        return counts
    normalized = _log_normalized(counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sc.pp.highly_variable_genes(normalized, n_top_genes=N_FEATURES, batch_key="batch")
    return counts[:, normalized.var["highly_variable"].to_numpy(bool)].copy()


def _log_variable(adata: ad.AnnData) -> sparse.csr_matrix:
    """Log-normalized variable features; the size of a cell is that of all its features."""
    return _log_normalized(adata)[:, _variable(adata).var_names].X


def _log_normalized(counts: ad.AnnData) -> ad.AnnData:
    normalized = counts.copy()
    sc.pp.normalize_total(normalized, target_sum=1e4)
    sc.pp.log1p(normalized)
    return normalized


def _by_interpreter(given: ad.AnnData, interpreter: str, script: str, *arguments: str) -> dict[str, NDArray[Any]]:
    """What one of the scripts writes of the cells."""
    with TemporaryDirectory() as folder:
        cells, latents = Path(folder) / "cells.h5ad", Path(folder) / "latents.npz"
        # In text that older versions of anndata read.
        plain = ad.AnnData(sparse.csr_matrix(given.X), obs=given.obs.astype(str), var=given.var[[]])
        plain.write_h5ad(cells)
        # -I: that interpreter must find packages of its own, and not the scripts, which have their names.
        command = [interpreter, "-I", str(SCRIPTS / script), str(cells), str(latents), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder)
        with np.load(latents) as found:
            return {name: found[name] for name in found.files}
