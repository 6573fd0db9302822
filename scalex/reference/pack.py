"""Packing a reference for others: one .zip without expression, whole or not at all."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, ZipFile, ZipInfo

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from scalex.h5ad.uns_values import convert_to_uns
from scalex.reference.about import PACKED_RAW_VAR, About
from scalex.reference.card import make_card
from scalex.reference.finished_run import FinishedRun
from scalex.reference.input_pca import INPUT_PCA, STEPS
from scalex.reference.lineage import LINEAGE, encode_lineage
from scalex.reference.place import CARD, CELLS, CHECKPOINT, PICTURE, SCORES
from scalex.system.atomic_files import atomic_write

__all__ = ["pack"]

# What a checkpoint needs; others may hold the state of an optimizer.
CHECKPOINT_PARTS = ("pytorch-lightning_version", "state_dict", "hyper_parameters", "trained_on", "model")
# Columns that projection itself needs. Clusters follow from the latents, so they tell nothing more.
ALWAYS_KEPT = ("domain", "leiden")
# Components are stored as whole numbers of steps. A step is between this part of the spread of its component and half of it.
STEP = 1 / 64
# The first time that a .zip can hold, so that the same reference makes the same file.
TIME = (1980, 1, 1, 0, 0, 0)


def pack(run: FinishedRun, path: Path, told: About, *, obs: bool | Sequence[str] = True) -> str:
    """Write a reference to one .zip, and return the sha256 of the file. See `scalex.Reference.pack` for parameters and errors."""
    if path.suffix.lower() != ".zip":
        raise ValueError(f"{path}: a reference is packed as .zip. Let the name of the file end so.")
    if path.exists():
        raise FileExistsError(f"{path} exists, and is not overwritten. Choose another name, or remove it.")
    cells, has_all = _choose_cells(run.cells, obs)
    about = run.about.update(told, all_columns=has_all)
    checkpoint = _strip_checkpoint(run.folder / CHECKPOINT)
    # The picture shows types.
    has_picture = about.all_columns and _has(run, PICTURE)
    contents = {
        CARD: make_card(run, cells, about, path.name, hashlib.sha256(checkpoint).hexdigest(), has_picture).encode(),
        CHECKPOINT: checkpoint,
        CELLS: _encode_cells(run, cells, about),
        LINEAGE: encode_lineage(run.lineage).encode(),
    }
    if _has(run, SCORES):
        contents[SCORES] = (run.folder / SCORES).read_bytes()
    if has_picture:
        contents[PICTURE] = (run.folder / PICTURE).read_bytes()
    with atomic_write(path) as unfinished:
        with ZipFile(unfinished, "w") as archive:
            for name, content in contents.items():
                entry = ZipInfo(name, TIME)
                entry.external_attr = 0o644 << 16
                # HDF5 compresses numbers, but no names of cells.
                archive.writestr(entry, content, ZIP_STORED if name == PICTURE else ZIP_DEFLATED)
        with unfinished.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def _has(run: FinishedRun, name: str) -> bool:
    return (run.folder / name).is_file()


def _choose_cells(cells: ad.AnnData, obs: bool | Sequence[str]) -> tuple[ad.AnnData, bool]:
    """Return the cells with some columns of obs, and whether they are all."""
    table = cells.obs
    if obs is not True:
        asked = [] if obs is False else [str(name) for name in obs]
        if missing := [name for name in asked if name not in table]:
            raise KeyError(f"obs={', '.join(missing)}: the cells have no such column. Columns: {', '.join(map(str, table.columns))}.")
        # Names of cells may tell donors. Numbers tell nothing.
        names = pd.Index([str(n) for n in range(len(table))], dtype=object)
        table = table[[name for name in table if name in (*ALWAYS_KEPT, *asked)]].set_axis(names)
    chosen = ad.AnnData(obs=table, var=cells.var)
    for name in ("latent", "X_umap", INPUT_PCA):
        if name in cells.obsm:
            chosen.obsm[name] = np.asarray(cells.obsm[name], np.float32)
    if INPUT_PCA in cells.uns:
        chosen.uns[INPUT_PCA] = dict(cells.uns[INPUT_PCA])
    if INPUT_PCA in cells.varm:
        chosen.varm[INPUT_PCA] = np.asarray(cells.varm[INPUT_PCA])
    if INPUT_PCA in chosen.obsm and INPUT_PCA in chosen.uns and (rounded := round_to_steps(chosen.obsm[INPUT_PCA])) is not None:
        chosen.obsm[INPUT_PCA], chosen.uns[INPUT_PCA][STEPS] = rounded
    return chosen, obs is True


def round_to_steps(components: NDArray[np.float32]) -> tuple[NDArray[np.int16], NDArray[np.float32]] | None:
    """Return coordinates as whole numbers of steps, and the step of each component, which is a power of two.

    None is returned where a component has no spread, or a value is too far from 0 for the steps.
    """
    spread = components.std(0, dtype=np.float64)
    if not (np.isfinite(spread) & (spread > 0)).all():
        return None
    steps = np.exp2(np.floor(np.log2(STEP * spread)))
    numbers = np.rint(components / steps)
    if np.abs(numbers).max(initial=0) > np.iinfo(np.int16).max:
        return None
    return numbers.astype(np.int16), steps.astype(np.float32)


def _strip_checkpoint(path: Path) -> bytes:
    """Return a checkpoint without the state of training."""
    checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    file = io.BytesIO()
    torch.save({name: checkpoint[name] for name in CHECKPOINT_PARTS if name in checkpoint}, file)
    return file.getvalue()


def _encode_cells(run: FinishedRun, cells: ad.AnnData, about: About) -> bytes:
    """Return an AnnData file without X. Of uns, it has what projection needs and no settings, which name files of this machine."""
    stored = io.BytesIO()
    told = convert_to_uns({"version": version("scalex"), "scores": run.scores}) | {"about": about.to_uns()}
    tables: dict[str, Any] = {"obs": cells.obs, "var": cells.var, "obsm": dict(cells.obsm), "varm": dict(cells.varm)}
    with h5py.File(stored, "w") as file, ad.settings.override(allow_write_nullable_strings=False):
        file.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
        ad.io.write_elem(file, "uns", dict(cells.uns) | {"scalex": told})
        for name, table in (tables | {PACKED_RAW_VAR: run.raw_var}).items():
            # Bytes of the same rank are more alike than those of one number.
            ad.io.write_elem(file, name, table, dataset_kwargs={"compression": "gzip", "shuffle": True})
    return stored.getvalue()
