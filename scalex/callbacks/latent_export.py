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
from lightning import Callback, LightningModule, Trainer

from scalex.data import ScalexDataModule
from scalex.files import written_whole
from scalex.impute import decoded_domain
from scalex.input_pca import InputPca
from scalex.module import Embedded, ScalexModule
from scalex.plain import writable

__all__ = ["LatentExport"]

logger = logging.getLogger(__name__)


class LatentExport(Callback):
    """Collect the latents of all cells; put them, with the cells, where the other callbacks find them; write ``adata.h5ad`` last.

    The AnnData is `ScalexDataModule.embedding`. Callbacks that add to it do so in ``on_predict_end``, between its making (end of the
    predict epoch) and its writing (teardown), whatever the order of the callbacks.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    impute
        Add layers["impute"], float32 in memory: each cell decoded through its own domain (True) or through the named one, in the units
        of normalized expression.
    """

    def __init__(self, folder: str | Path | None, *, impute: bool | str | None = None) -> None:
        self.impute = impute
        self.path = None if folder is None else Path(folder) / "adata.h5ad"
        self._latent: np.ndarray | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """See that the cells' annotation can be written, and the domain to decode through is there, before the long work."""
        if stage == "fit":
            decoded_domain(self.impute, trainer.datamodule.domains)  # type: ignore[attr-defined]
        if stage == "fit" and self.path is not None:
            data: ScalexDataModule = trainer.datamodule  # type: ignore[attr-defined]
            check_writable(data.cells.obs)
            check_writable(data.cells.var)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, dataloader_idx: int = 0
    ) -> None:
        """Take the latents of one chunk."""
        assert isinstance(outputs, Embedded)
        latent, rows = outputs.latent_CZ.cpu().numpy(), outputs.row_C.cpu().numpy()
        if self._latent is None:
            n_cells = len(trainer.datamodule.rows)  # type: ignore[attr-defined]
            self._latent = np.full((n_cells, latent.shape[1]), np.nan, np.float32)
        self._latent[rows] = latent

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Make the AnnData."""
        data: ScalexDataModule = trainer.datamodule  # type: ignore[attr-defined]
        assert self._latent is not None, "there are cells"
        assert np.isfinite(self._latent).all(), "each cell is embedded once"
        data.embedding = _as_anndata(data, self._latent)
        code = decoded_domain(self.impute, data.domains)
        if code is not None:
            assert isinstance(pl_module, ScalexModule)
            domain = data.domain if code < 0 else np.full(len(data.domain), code)
            data.embedding.layers["impute"] = pl_module.impute(self._latent, domain)
        self._latent = None

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write the AnnData with all that was added to it."""
        data: ScalexDataModule = trainer.datamodule  # type: ignore[attr-defined]
        if stage == "predict" and self.path is not None and data.embedding is not None:
            with written_whole(self.path) as path:
                data.embedding.write_h5ad(path, compression="gzip")
            logger.info("Wrote %s (%s cells x %s features)", self.path, *(f"{n:,}" for n in data.embedding.shape))


def _as_anndata(data: ScalexDataModule, latent: np.ndarray) -> ad.AnnData:
    """Kept cells x used features with the latents; `.raw` is the normalized expression of all kept features."""
    preprocessor, cells = data.preprocessor, data.cells
    obs = cells.obs.iloc[data.rows].copy()
    domain = pd.Categorical(cells.domain[data.rows]).remove_unused_categories()
    if "domain" in obs and not np.array_equal(obs["domain"].astype(str), domain.astype(str)):
        logger.warning("obs['domain'] of the input is replaced by the domains of the training.")
    obs["domain"] = domain
    adata = ad.AnnData(data.inputs(), obs=obs, var=cells.var.loc[preprocessor.features].copy())
    adata.raw = ad.AnnData(data.normalized(), obs=obs[[]], var=cells.var.loc[preprocessor.expressed].copy())
    adata.obsm["latent"] = latent
    if min(adata.shape) > 2:
        InputPca.fit(adata.X).add_to(adata, adata.X)
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
