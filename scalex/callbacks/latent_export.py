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

# Number of cells from which the values per cell are estimated.
N_ESTIMATED = 1000


class LatentExport(Callback):
    """Embed all cells after the training as an AnnData, and write ``adata.h5ad`` after the other outputs have added to it.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    impute
        Add layers["impute"], float32: each cell decoded through its own domain (True) or through the named one, in the units of normalized
        expression. For cells that stay in files it is only written.
    expression
        Whether X and raw are written. None: if the cells are in memory. For cells that stay in files they are written block by block, and
        the AnnData in memory does not have them.

    Notes
    -----
    For cells that stay in files, obsm["input_pca"] is in memory only if nothing is written.
    """

    def __init__(self, folder: str | Path | None, *, impute: bool | str | None = None, expression: bool | None = None) -> None:
        self.impute = impute
        self.expression = expression
        self.path = None if folder is None else Path(folder) / "adata.h5ad"

    def check(self, data: ScalexDataModule) -> None:
        """Check before the training that the annotation can be written and that the domain to decode through exists.

        Raises
        ------
        ValueError
            Naming the column or the domain.
        """
        get_domain_code(self.impute, data.domains)
        if self.path is not None:
            # Columns from a file can be written to one.
            check_writable(data.cells.read_obs(slice(0, len(data.cells.domain) if data.in_memory else 1)))
            check_writable(data.cells.var)

    @contextmanager
    def embed(self, module: Model, data: ScalexDataModule, trainer: Trainer) -> Iterator[AnnData]:
        """Yield the kept cells with their latents, and write them with the caller's additions, if there is a folder.

        If the caller fails, nothing is written.
        """
        n_cells = len(data.rows)
        times, latent = np.zeros(n_cells, np.int8), np.zeros((n_cells, module.hparams["n_latent"]), np.float32)
        pca = self._fit_components(data, trainer)
        with on_device(module, trainer), self._open_coordinates(data, trainer, pca) as coordinates:
            for batch, latent_CZ in module.embed(data.batches()):
                rows = batch.row_C.numpy()
                times[rows] += 1
                latent[rows] = latent_CZ.cpu().numpy()
                if pca is not None and coordinates is not None:
                    own = pca.transform(batch.rows.csr())
                    if isinstance(coordinates, ScratchTable):
                        coordinates.write(int(rows[0]), own)
                    else:
                        coordinates[rows] = own

            def all_gather(values: np.ndarray) -> np.ndarray:
                """Sum over the processes, each of which has some of the rows and 0 in the others."""
                return all_sum(torch.from_numpy(values).to(module.device)).cpu().numpy()

            assert (all_gather(times) == 1).all(), "each cell is embedded once"
            adata = _make_anndata(data)
            adata.obsm["latent"] = all_gather(latent)
            assert np.isfinite(adata.obsm["latent"]).all()
            if pca is not None:
                pca.add_to(adata, all_gather(coordinates) if isinstance(coordinates, np.ndarray) else None)
            if data.in_memory:
                self._add_values(adata, slice(None), data, module)
            yield adata
            if self.path is not None and trainer.is_global_zero:
                self._write(self.path, adata, data, module, coordinates)

    def _fit_components(self, data: ScalexDataModule, trainer: Trainer) -> InputPca | None:
        """Fit principal components of the inputs, before the cells are embedded, so that each chunk is read once."""
        if min(len(data.rows), len(data.preprocessor.features)) <= 2:
            return None
        pca: InputPca | None = trainer.strategy.broadcast(_fit_pca(data) if trainer.is_global_zero else None)
        return pca

    @contextmanager
    def _open_coordinates(
        self, data: ScalexDataModule, trainer: Trainer, pca: InputPca | None
    ) -> Iterator[np.ndarray | ScratchTable | None]:
        """Yield an array or a temporary file for the cells' coordinates in the components."""
        if pca is None:
            yield None
            return
        n_components = pca.components.shape[1]
        if data.in_memory or self.path is None:
            yield np.zeros((len(data.rows), n_components), np.float32)
            return
        table = ScratchTable(self.path.with_name(".input_pca"), n_components)
        try:
            yield table
        finally:
            # All processes write to the file, and the first removes it.
            if trainer.is_global_zero:
                table.remove()

    def _write(
        self, target: Path, adata: AnnData, data: ScalexDataModule, module: Model, coordinates: np.ndarray | ScratchTable | None
    ) -> None:
        if data.in_memory:
            # As anndata writes repeated text. For cells in files it is not known whether text repeats.
            adata.strings_to_categoricals()
        with atomic_write(target) as path, h5py.File(path, "w") as file:
            writer = BlockWriter(file, compression="gzip")
            for rows in data.row_chunks():
                writer.append(self._make_block(rows, adata, data, module, coordinates))
            writer.finish(uns=adata.uns, obsp=adata.obsp)
        without = "" if data.in_memory or self.expression else "; without expression, which stays in its files"
        logger.info("Wrote %s (%s cells x %s features%s)", target, *(f"{n:,}" for n in adata.shape), without)

    def _add_values(self, adata: ad.AnnData, part: slice, data: ScalexDataModule, module: Model) -> None:
        """Add X, raw and the imputed layer to a run of cells, as far as they are asked for."""
        if self.expression or (self.expression is None and data.in_memory):
            adata.X = data.inputs(part)
            var = data.cells.var.loc[data.preprocessor.kept_features].copy()
            adata.raw = ad.AnnData(data.normalized(part), obs=adata.obs[[]], var=var)
        code = get_domain_code(self.impute, data.domains)
        if code is not None:
            domain = data.domain[part]
            adata.layers["impute"] = module.impute(adata.obsm["latent"], domain if code < 0 else np.full(len(domain), code))

    def _make_block(
        self, rows: slice, adata: AnnData, data: ScalexDataModule, module: Model, coordinates: np.ndarray | ScratchTable | None
    ) -> AnnData:
        """Return a run of cells, with the values that are not in memory."""
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


def _fit_pca(data: ScalexDataModule) -> InputPca:
    """Fit principal components to the inputs of all cells or of a sample."""
    n_cells = len(data.rows)
    sample = data.inputs(slice(0, min(n_cells, N_ESTIMATED)))
    return InputPca.fit(data.inputs(InputPca.choose_rows(n_cells, sample.nnz / sample.shape[0])))


def _make_anndata(data: ScalexDataModule) -> ad.AnnData:
    """Return an AnnData of kept cells x input features, without values."""
    preprocessor, cells = data.preprocessor, data.cells
    obs = cells.obs.iloc[data.rows].copy()
    obs.index = obs.index.astype(str)
    domain = pd.Categorical(cells.domain[data.rows]).remove_unused_categories()
    if "domain" in obs and not np.array_equal(obs["domain"].astype(str), domain.astype(str)):
        logger.warning("The domains of the training replace obs['domain'] of the input.")
    obs["domain"] = domain
    adata = ad.AnnData(obs=obs, var=cells.var.loc[preprocessor.features].copy())
    adata.uns["scalex"] = {"version": version("scalex"), "parameters": convert_to_uns(data.parameters)}
    return adata
