"""Latents of the cells as an AnnData, in memory and in the run folder."""

from __future__ import annotations

import logging
from importlib.metadata import version
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import torch
from lightning import Callback, LightningModule, Trainer

from scalex.data import Chunk, ScalexDataModule
from scalex.h5ad.block_writer import BlockWriter
from scalex.h5ad.scratch_table import KeptRows
from scalex.h5ad.uns_values import writable
from scalex.model.imputation import decoded_domain
from scalex.model.module import Embedded, ScalexModule
from scalex.nn import summed
from scalex.reference.input_pca import INPUT_PCA, InputPca
from scalex.system.whole_files import written_whole

__all__ = ["LatentExport"]

logger = logging.getLogger(__name__)

# Cells that tell how many values a cell has.
LOOKED_AT = 1000


class LatentExport(Callback):
    """Collect the latents of all cells; put them, with the cells, where the other callbacks find them; write ``adata.h5ad`` last.

    The AnnData is `ScalexDataModule.embedding`. Callbacks that add to it do so in ``on_predict_end``, between its making (end of the
    predict epoch) and its writing (teardown), whatever the order of the callbacks.

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
        self._latent: np.ndarray | None = None
        self._times: np.ndarray = np.zeros(0, np.int8)
        self._pca: InputPca | None = None
        self._coordinates: np.ndarray | KeptRows | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that the cells' annotation can be written, and the domain to decode through is there, before the long work."""
        if stage == "fit":
            decoded_domain(self.impute, trainer.datamodule.domains)  # type: ignore[attr-defined]
        if stage == "fit" and self.path is not None:
            data: ScalexDataModule = trainer.datamodule  # type: ignore[attr-defined]
            # Columns that come from a file can be written to one.
            check_writable(data.cells.annotation(slice(0, len(data.cells.domain) if data.in_memory else 1)))
            check_writable(data.cells.var)

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Find the principal components of the inputs, so that each chunk is read once."""
        data: ScalexDataModule = trainer.datamodule  # type: ignore[attr-defined]
        n_cells = len(data.rows)
        self._times = np.zeros(n_cells, np.int8)
        self._latent = np.zeros((n_cells, pl_module.hparams["n_latent"]), np.float32)
        if min(n_cells, len(data.preprocessor.features)) <= 2:
            return
        fitted = _fitted(data) if trainer.is_global_zero else None
        self._pca = trainer.strategy.broadcast(fitted)
        assert self._pca is not None
        n_components = self._pca.components.shape[1]
        if data.in_memory or self.path is None:
            self._coordinates = np.zeros((n_cells, n_components), np.float32)
        else:
            self._coordinates = KeptRows(self.path.with_name(".input_pca"), n_components)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the latents of one chunk."""
        assert isinstance(outputs, Embedded)
        assert isinstance(batch, Chunk)
        assert self._latent is not None
        rows = outputs.row_C.cpu().numpy()
        self._times[rows] += 1
        self._latent[rows] = outputs.latent_CZ.cpu().numpy()
        if self._pca is not None:
            coordinates = self._pca.coordinates(batch.inputs)
            if isinstance(self._coordinates, KeptRows):
                self._coordinates.write(int(rows[0]), coordinates)
            else:
                assert self._coordinates is not None
                self._coordinates[rows] = coordinates

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the AnnData."""
        data: ScalexDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert isinstance(pl_module, ScalexModule)
        assert self._latent is not None

        def gathered(values: np.ndarray) -> np.ndarray:
            """Each process has some rows, and 0 in the others."""
            return summed(torch.from_numpy(values).to(pl_module.device)).cpu().numpy()

        assert (gathered(self._times) == 1).all(), "each cell is embedded once"
        adata = _as_anndata(data)
        adata.obsm["latent"] = gathered(self._latent)
        assert np.isfinite(adata.obsm["latent"]).all()
        if self._pca is not None:
            self._pca.add_to(adata, gathered(self._coordinates) if isinstance(self._coordinates, np.ndarray) else None)
        if data.in_memory:
            self._add_values(adata, slice(None), data, pl_module)
        data.embedding = adata
        self._latent = self._pca = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the AnnData with all that was added to it."""
        data: ScalexDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if stage != "predict" or self.path is None or data.embedding is None or not trainer.is_global_zero:
            return
        assert isinstance(pl_module, ScalexModule)
        with written_whole(self.path) as path:
            if data.in_memory:
                data.embedding.write_h5ad(path, compression="gzip")
            else:
                self._write_blocks(path, data.embedding, data, pl_module)
        if isinstance(self._coordinates, KeptRows):
            self._coordinates.remove()
        self._coordinates = None
        without = "" if data.in_memory or self.expression else "; without expression, which stays where it is"
        logger.info("Wrote %s (%s cells x %s features%s)", self.path, *(f"{n:,}" for n in data.embedding.shape), without)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Leave nothing half done."""
        if isinstance(self._coordinates, KeptRows):
            self._coordinates.remove()

    def _add_values(self, adata: ad.AnnData, part: slice, data: ScalexDataModule, module: ScalexModule) -> None:
        """Add to a run of cells what has a value for each feature, as far as it is asked for."""
        if self.expression or (self.expression is None and data.in_memory):
            adata.X = data.inputs(part)
            var = data.cells.var.loc[data.preprocessor.expressed].copy()
            adata.raw = ad.AnnData(data.normalized(part), obs=adata.obs[[]], var=var)
        code = decoded_domain(self.impute, data.domains)
        if code is not None:
            domain = data.domain[part]
            adata.layers["impute"] = module.impute(adata.obsm["latent"], domain if code < 0 else np.full(len(domain), code))

    def _write_blocks(self, path: Path, adata: ad.AnnData, data: ScalexDataModule, module: ScalexModule) -> None:
        with h5py.File(path, "w") as file:
            writer = BlockWriter(file, compression="gzip")
            for part in data.parts():
                obsm = {name: np.asarray(values[part]) for name, values in adata.obsm.items()}
                block = ad.AnnData(obs=adata.obs.iloc[part], var=adata.var, obsm=obsm, varm=dict(adata.varm))
                if isinstance(self._coordinates, KeptRows):
                    block.obsm[INPUT_PCA] = self._coordinates.read(part)
                self._add_values(block, part, data, module)
                writer.append(block)
            writer.finish(uns=adata.uns, obsp=adata.obsp)


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
    adata.uns["scalex"] = {"version": version("scalex"), "parameters": writable(data.parameters)}
    return adata


def check_writable(table: pd.DataFrame) -> None:
    """See that .h5ad can hold every column.

    Raises
    ------
    ValueError
        Naming the column that it cannot hold.
    """
    with h5py.File("check", "w", driver="core", backing_store=False) as file:
        for column in table:
            try:
                ad.io.write_elem(file, "column", table[[column]])
            except Exception as error:
                raise ValueError(
                    f"The column {column!r} of obs or var cannot be written to .h5ad ({type(error).__name__}): it may mix text and "
                    "numbers. Convert it, for example with astype(str), or drop it."
                ) from error
