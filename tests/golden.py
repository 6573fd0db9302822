"""Hashes of the results for demo cells by every interface: ``python tests/golden.py FILE`` compares with a file, or writes it.

Write the file before a change that must not change any bit, and compare after it on the same machine. No hashes are stored with the
project, since other processors round differently.
"""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
from lightning import Trainer
from scipy import sparse

import scalex
from scalex.callbacks import Checkpoint, LatentExport, Scores, UmapPlot

ROOT = Path(__file__).parents[1]
RECIPE = {"min_features": 50, "n_top_features": 300}


def write_cells(folder: Path) -> list[Path]:
    """Write files of training cells, one per domain, and of cells to project; return their paths."""
    adata = scalex.demo_cells(360, 420, 4, seed=3)
    paths = []
    for name in ("domain0", "domain1", "domain2", "domain3"):
        own = adata[adata.obs["batch"] == name].copy()
        if name == "domain1":
            own = own[:, ::-1].copy()
        own.obs["depth"] = np.arange(own.n_obs) if name != "domain2" else np.linspace(0, 1, own.n_obs)
        own.obs["note"] = [f"note {i % 7}" for i in range(own.n_obs)]
        own.obs["batch"] = own.obs["batch"].astype(str)
        own.var["number"] = np.arange(own.n_vars)
        paths.append(folder / f"{name}.h5ad")
        own.write_h5ad(paths[-1])
    return paths


def train_model(source: Any, folder: Path | None, recipe: Any = None, **plan: Any) -> ad.AnnData:
    """Return the cells of a run of 30 steps with three corrections; with a folder, it also has a UMAP and scores."""
    settings: dict[str, Any] = {
        "n_latent": 8, "n_hidden": 32, "batch_size": 50, "lr": 3e-3, "schedule": "one_cycle", "correct_at": [0.4, 0.6, 0.8], "max_steps": 30
    }  # fmt: skip
    module = scalex.ScalexModule(**(settings | plan))
    callbacks = [LatentExport(folder), Checkpoint(folder), *([] if folder is None else [UmapPlot(folder), Scores(folder)])]
    quiet: dict[str, Any] = {
        "enable_progress_bar": False, "enable_model_summary": False, "use_distributed_sampler": False, "num_sanity_val_steps": 0
    }  # fmt: skip
    trainer = Trainer(accelerator="cpu", max_steps=module.hparams["max_steps"], callbacks=callbacks, logger=False, **quiet)
    return scalex.fit(source, recipe or scalex.RnaRecipe(**RECIPE), module, trainer, chunk_size=97)


def list_scenarios(folder: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Yield the name of each way through the project with a function that returns its result."""
    *train, query = write_cells(folder)
    joined: dict[str, Any] = {"path": train, "join": "outer"}
    run = folder / "run"

    def train_backed(**options: Any) -> ad.AnnData:
        target = folder / "-".join(["backed", *options])
        train_model(scalex.AnnDataSource(**joined, backed=True, **options), target)
        return ad.read_h5ad(target / "adata.h5ad")

    def run_script(script: str, target: str, *arguments: str) -> dict[str, Any]:
        command = [sys.executable, str(ROOT / script), *arguments, f"output={folder / target}", "trainer=cpu"]
        subprocess.run(command, check=True, cwd=folder, capture_output=True)
        files = {path.name: json.loads(path.read_text()) for path in (folder / target).glob("*.json")}
        return {"adata": ad.read_h5ad(folder / target / "adata.h5ad"), **files}

    yield "in memory", lambda: train_model(scalex.AnnDataSource(**joined), run)
    yield "written", lambda: ad.read_h5ad(run / "adata.h5ad")
    yield (
        "shuffled in memory, domain statistics",
        lambda: train_model(scalex.AnnDataSource(**joined), None, statistics="domain", use_labels=True),
    )
    yield "sampled", lambda: train_model(scalex.AnnDataSource(**joined, n_obs=200), None, sampling="balanced")
    yield "backed", train_backed
    yield "cached", lambda: train_backed(cache=folder / "cache")
    yield "from the cache", lambda: train_backed(cache=folder / "cache")
    yield "sampled, backed", lambda: train_backed(fraction=0.7)
    yield (
        "atac",
        lambda: train_model(scalex.AnnDataSource(path=train[0]), None, scalex.AtacRecipe(normalization="tfidf", n_top_features=200)),
    )
    yield "adt", lambda: train_model(scalex.AnnDataSource(path=train), None, scalex.AdtRecipe(scaling="domain"))
    yield (
        "SCALEX",
        lambda: scalex.SCALEX(train, min_features=50, n_top_features=200, max_iteration=20, assess=True, ignore_umap=True, impute=True),
    )
    yield "embedded", lambda: scalex.Reference.load(run).embed(query, chunk_size=50)
    yield "by domain", lambda: scalex.Reference.load(run).embed(query, statistics="domain", chunk_size=33)
    yield "projected", lambda: run_script("project.py", "projected", f"reference={run}", f"dataset.path={query}", "chunk_size=37")
    yield (
        "alone",
        lambda: run_script(
            "project.py", "alone", f"reference={run}", f"dataset.path={query}", "repeat=true", "impute=domain0", "backed=false"
        ),
    )
    yield "appended", lambda: run_script("project.py", "appended", f"reference={run}", f"dataset.path={query}", "append=true")
    yield "labels", lambda: scalex.Reference.load(run).transfer_labels(query)
    yield "grown", lambda: run_script(
        "train.py", "grown", f"reference={run}", "dataset=files", f"dataset.path={query}", "model.n_latent=8", "model.n_hidden=32",
        "model.max_steps=20", "growth.allowed_fall=1", "callbacks=[checkpoint,latent_export]",
    )  # fmt: skip
    yield "commanded", lambda: run_script(
        "train.py", "commanded", "dataset=files", f"dataset.path=[{train[0]},{train[1]}]", "preprocess.min_features=50", "model=small",
        "model.max_steps=20", "dataset.backed=true", "callbacks=[checkpoint,latent_export,scores]",
    )  # fmt: skip


def hash_value(value: Any) -> str:
    """Return a hash of all numbers and names in a value, without paths and versions."""
    sha = hashlib.sha256()

    def add(name: str, part: Any) -> None:
        if isinstance(part, ad.AnnData):
            tables = {"obs": part.obs, "var": part.var, "obsm": dict(part.obsm), "varm": dict(part.varm), "obsp": dict(part.obsp)}
            raw = None if part.raw is None else {"X": part.raw.X, "var": part.raw.var}
            scores = part.uns.get("scalex", {}).get("scores", {})
            add(name, tables | {"X": part.X, "raw": raw, "layers": dict(part.layers), "scores": dict(scores)})
        elif isinstance(part, dict):
            for key in sorted(part):
                if key not in ("folder", "version"):
                    add(f"{name}/{key}", part[key])
        elif isinstance(part, list | tuple):
            for i, item in enumerate(part):
                add(f"{name}/{i}", item)
        elif isinstance(part, pd.DataFrame):
            add(f"{name}/index", np.asarray(part.index.astype(str)))
            for column in part:
                values = part[column]
                kind = "category" if isinstance(values.dtype, pd.CategoricalDtype) else str(values.dtype)
                add(f"{name}/{column} {kind}", np.asarray(values.astype(str) if values.dtype.kind not in "biuf" else values))
        elif sparse.issparse(part):
            matrix = sparse.csr_matrix(part)
            add(name, [matrix.data, matrix.indices.astype(np.int64), matrix.indptr.astype(np.int64)])
        elif isinstance(part, np.ndarray) and part.dtype.kind in "biuf":
            sha.update(f"{name} {part.dtype} {part.shape}".encode() + np.ascontiguousarray(part).tobytes())
        else:
            sha.update(f"{name} {part.tolist() if isinstance(part, np.ndarray) else part}".encode())

    add("", value)
    return sha.hexdigest()[:16]


def main(file: Path) -> None:
    """Write the hashes, or print those that differ from the file and exit with 1 if any does."""
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")
    with TemporaryDirectory() as folder:
        found = {name: hash_value(make()) for name, make in list_scenarios(Path(folder))}
    if not file.exists():
        file.write_text(json.dumps(found, indent=2))
        print(f"Wrote {len(found)} hashes to {file}")  # noqa: T201
        return
    before = json.loads(file.read_text())
    changed = [name for name in before | found if before.get(name) != found.get(name)]
    print("\n".join(f"DIFFERS: {name}" for name in changed) or f"All {len(found)} are the same")  # noqa: T201
    sys.exit(bool(changed))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
