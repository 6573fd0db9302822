"""Latents of the cells as an AnnData, in memory and in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from lightning import Callback, Trainer

from scalex.data import ScalexDataModule
from scalex.h5ad.block_writer import BlockWriter
from scalex.h5ad.common_columns import check_writable
from scalex.h5ad.scratch_table import ScratchTable
from scalex.h5ad.uns_values import convert_to_uns
from scalex.model.base import Model
from scalex.model.imputation import get_domain_code
from scalex.model.inference import on_device
from scalex.nn import all_sum
from scalex.reference.input_pca import INPUT_PCA, InputPca
from scalex.system.atomic_files import atomic_write

__all__ = ["LatentExport"]

logger = logging.getLogger(__name__)

# Cells that tell how many values a cell has.
LOOKED_AT = 1000


class LatentExport(Callback):
    """Embed all cells after the training, as an AnnData, and write ``adata.h5ad`` last, when the other outputs have added to it.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    impute
        Add layers["impute"], float32: each cell decoded through its own domain (True) or through the named one, in the units of normalized
        expression. Of cells that stay in a file it is written, but not in memory.
    expression
        Whether X and raw are written. None: if the cells are in memory. Those of cells that stay in a file are written block by block, and
        are not in the AnnData in memory.

    Notes
    -----
    obsm["input_pca"] of cells that stay in a file is written, but is in memory only where nothing is written.
    """

    def __init__(self, folder: str | Path | None, *, impute: bool | str | None = None, expression: bool | None = None) -> None:
        self.impute = impute
        self.expression = expression
        self.path = None if folder is None else Path(folder) / "adata.h5ad"

    def check(self, data: ScalexDataModule) -> None:
        """See that the cells' annotation can be written, and the domain to decode through is there, before the long work.

        Raises
        ------
        ValueError
            Naming the column, or the domain, if not.
        """
        get_domain_code(self.impute, data.domains)
        if self.path is not None:
            # Columns that come from a file can be written to one.
            check_writable(data.cells.read_obs(slice(0, len(data.cells.domain) if data.in_memory else 1)))
            check_writable(data.cells.var)

    @contextmanager
    def embed(self, module: Model, data: ScalexDataModule, trainer: Trainer) -> Iterator[AnnData]:
        """The kept cells with their latents; what the caller has added to them is written at the end, if there is a folder.

        Nothing is written, and nothing stays, where the caller fails meanwhile.
        """
        n_cells = len(data.rows)
        times, latent = np.zeros(n_cells, np.int8), np.zeros((n_cells, module.hparams["n_latent"]), np.float32)
        pca = self._components(data, trainer)
        with on_device(module, trainer), self._coordinates(data, trainer, pca) as coordinates:
            for batch, latent_CZ in module.embed(data.batches()):
                rows = batch.row_C.numpy()
                times[rows] += 1
                latent[rows] = latent_CZ.cpu().numpy()
                if pca is not None and coordinates is not None:
                    found = pca.coordinates(batch.rows.csr())
                    if isinstance(coordinates, ScratchTable):
                        coordinates.write(int(rows[0]), found)
                    else:
                        coordinates[rows] = found

            def all_gather(values: np.ndarray) -> np.ndarray:
                """Each process has some rows, and 0 in the others."""
                return all_sum(torch.from_numpy(values).to(module.device)).cpu().numpy()

            assert (all_gather(times) == 1).all(), "each cell is embedded once"
            adata = _as_anndata(data)
            adata.obsm["latent"] = all_gather(latent)
            assert np.isfinite(adata.obsm["latent"]).all()
            if pca is not None:
                pca.add_to(adata, all_gather(coordinates) if isinstance(coordinates, np.ndarray) else None)
            if data.in_memory:
                self._add_values(adata, slice(None), data, module)
            yield adata
            if self.path is not None and trainer.is_global_zero:
                self._write(self.path, adata, data, module, coordinates)

    def _components(self, data: ScalexDataModule, trainer: Trainer) -> InputPca | None:
        """Principal components of the inputs, found before the cells are embedded, so that each chunk is read once."""
        if min(len(data.rows), len(data.preprocessor.features)) <= 2:
            return None
        found: InputPca | None = trainer.strategy.broadcast(_fitted(data) if trainer.is_global_zero else None)
        return found

    @contextmanager
    def _coordinates(self, data: ScalexDataModule, trainer: Trainer, pca: InputPca | None) -> Iterator[np.ndarray | ScratchTable | None]:
        """Where the cells' coordinates in the components go: memory, or a file that is removed at the end."""
        if pca is None:
            yield None
            return
        n_components = pca.components.shape[1]
        if data.in_memory or self.path is None:
            yield np.zeros((len(data.rows), n_components), np.float32)
            return
        kept = ScratchTable(self.path.with_name(".input_pca"), n_components)
        try:
            yield kept
        finally:
            # The first writes what all have kept.
            if trainer.is_global_zero:
                kept.remove()

    def _write(
        self, target: Path, adata: AnnData, data: ScalexDataModule, module: Model, coordinates: np.ndarray | ScratchTable | None
    ) -> None:
        if data.in_memory:
            # Text that repeats, as anndata writes it. Of cells in files nobody knows whether it does.
            adata.strings_to_categoricals()
        with atomic_write(target) as path, h5py.File(path, "w") as file:
            writer = BlockWriter(file, compression="gzip")
            for rows in data.row_chunks():
                writer.append(self._block(rows, adata, data, module, coordinates))
            writer.finish(uns=adata.uns, obsp=adata.obsp)
        without = "" if data.in_memory or self.expression else "; without expression, which stays where it is"
        logger.info("Wrote %s (%s cells x %s features%s)", target, *(f"{n:,}" for n in adata.shape), without)

    def _add_values(self, adata: ad.AnnData, part: slice, data: ScalexDataModule, module: Model) -> None:
        """Add to a run of cells what has a value for each feature, as far as it is asked for."""
        if self.expression or (self.expression is None and data.in_memory):
            adata.X = data.inputs(part)
            var = data.cells.var.loc[data.preprocessor.kept_features].copy()
            adata.raw = ad.AnnData(data.normalized(part), obs=adata.obs[[]], var=var)
        code = get_domain_code(self.impute, data.domains)
        if code is not None:
            domain = data.domain[part]
            adata.layers["impute"] = module.impute(adata.obsm["latent"], domain if code < 0 else np.full(len(domain), code))

    def _block(
        self, rows: slice, adata: AnnData, data: ScalexDataModule, module: Model, coordinates: np.ndarray | ScratchTable | None
    ) -> AnnData:
        """A run of cells, with what is not in memory."""
        obsm = {name: np.asarray(values[rows]) for name, values in adata.obsm.items()}
        block = ad.AnnData(obs=adata.obs.iloc[rows], var=adata.var, obsm=obsm, varm=dict(adata.varm), varp=dict(adata.varp))
        if not data.in_memory:
            if isinstance(coordinates, ScratchTable):
                block.obsm[INPUT_PCA] = coordinates.read(rows)
            self._add_values(block, rows, data, module)
            return block
        if adata.X is not None:
            block.X = adata.X[rows]
        if adata.raw is not None:
            block.raw = ad.AnnData(adata.raw.X[rows], obs=block.obs[[]], var=adata.raw.var)
        for name, values in adata.layers.items():
            block.layers[name] = values[rows]
        return block


def _fitted(data: ScalexDataModule) -> InputPca:
    """Principal components of the inputs of all cells, or of many."""
    n_cells = len(data.rows)
    some = data.inputs(slice(0, min(n_cells, LOOKED_AT)))
    return InputPca.fit(data.inputs(InputPca.rows(n_cells, some.nnz / some.shape[0])))


def _as_anndata(data: ScalexDataModule) -> ad.AnnData:
    """Kept cells x used features, without values."""
    preprocessor, cells = data.preprocessor, data.cells
    obs = cells.obs.iloc[data.rows].copy()
    obs.index = obs.index.astype(str)
    domain = pd.Categorical(cells.domain[data.rows]).remove_unused_categories()
    if "domain" in obs and not np.array_equal(obs["domain"].astype(str), domain.astype(str)):
        logger.warning("obs['domain'] of the input is replaced by the domains of the training.")
    obs["domain"] = domain
    adata = ad.AnnData(obs=obs, var=cells.var.loc[preprocessor.features].copy())
    adata.uns["scalex"] = {"version": version("scalex"), "parameters": convert_to_uns(data.parameters)}
    return adata
