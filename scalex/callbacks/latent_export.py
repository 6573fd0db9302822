"""Export of the cells with their latents as an AnnData, in memory and in the run folder."""

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

from scalex.callbacks.result import Result
from scalex.data import ScalexDataModule
from scalex.h5ad.block_writer import BlockWriter
from scalex.h5ad.scratch_table import ScratchTable
from scalex.h5ad.uns_values import convert_to_uns
from scalex.model.base import Model
from scalex.model.imputation import Impute, get_domain_code
from scalex.model.imputation_fit import ImputationFit
from scalex.model.inference import on_device
from scalex.nn import all_sum
from scalex.reference.input_pca import INPUT_PCA, InputPca
from scalex.system.atomic_files import atomic_write
from scalex.system.settings import check_call

__all__ = ["LatentExport"]

logger = logging.getLogger(__name__)

# Over which cells imputed values are compared with observed ones.
SEEN = "the training cells, which the model has seen"
# Cells from which the number of values per cell is estimated.
N_SAMPLED = 1000


@check_call
class LatentExport(Callback):
    """Embed all cells after the training as an AnnData, and write ``adata.h5ad`` after the other outputs have added to it.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    impute
        Add layers["impute"], float32: each cell decoded through its own domain (True) or through the named one, in units of normalized
        expression. For cells in files it is only written, not kept in memory.
    expression
        Whether to write X and raw. None: only if the cells are in memory. For cells in files they are written block by block, and not
        kept in memory.

    Notes
    -----
    For cells in files, obsm["input_pca"] is in memory only if nothing is written.
    """

    def __init__(self, folder: str | Path | None, *, impute: Impute = None, expression: bool | None = None) -> None:
        self.impute = impute
        self.expression = expression
        self.path = None if folder is None else Path(folder) / "adata.h5ad"

    def check(self, data: ScalexDataModule) -> None:
        """Check before the training that the domain to decode through exists.

        Raises
        ------
        ValueError
            If it does not. The message names it.
        """
        get_domain_code(self.impute, data.domains)

    @contextmanager
    def embed(self, module: Model, data: ScalexDataModule, trainer: Trainer) -> Iterator[Result]:
        """Yield the kept cells with their latents, and write them with the caller's additions at the end of the context.

        No file is left if the body of the context fails.
        """
        n_cells = len(data.rows)
        times, latent = np.zeros(n_cells, np.int8), np.zeros((n_cells, module.hparams["n_latent"]), np.float32)
        pca = self._fit_pca(data, trainer)
        with on_device(module, trainer), self._make_coordinates(data, trainer, pca) as coordinates:
            for batch, latent_CZ in module.embed(data.batches()):
                rows = batch.row_C.numpy()
                times[rows] += 1
                latent[rows] = latent_CZ.cpu().numpy()
                if pca is not None and coordinates is not None:
                    chunk = pca.transform(batch.rows.csr())
                    if isinstance(coordinates, ScratchTable):
                        coordinates.write(int(rows[0]), chunk)
                    else:
                        coordinates[rows] = chunk

            def gather(values: np.ndarray) -> np.ndarray:
                """Sum over the processes, each of which has some of the rows and 0 in the others."""
                return all_sum(torch.from_numpy(values).to(module.device)).cpu().numpy()

            assert (gather(times) == 1).all(), "each cell is embedded once"
            adata = _make_anndata(data)
            adata.obsm["latent"] = gather(latent)
            assert np.isfinite(adata.obsm["latent"]).all()
            if pca is not None:
                pca.add_to(adata, gather(coordinates) if isinstance(coordinates, np.ndarray) else None)
            if data.in_memory:
                fit = self._add_values(adata, slice(None), data, module)
                adata.var = adata.var if fit is None else fit.add_to(adata.var, _all_measured(data), SEEN)
            yield Result(adata, data.label, adata.obsm.get(INPUT_PCA, coordinates), data)
            if self.path is not None and trainer.is_global_zero:
                self._write(self.path, adata, data, module, coordinates)

    def _fit_pca(self, data: ScalexDataModule, trainer: Trainer) -> InputPca | None:
        """Fit the principal components of the inputs before the cells are embedded, so that each chunk is read once."""
        n_cells = len(data.rows)
        if min(n_cells, len(data.preprocessor.features)) <= 2:
            return None
        pca = None
        if trainer.is_global_zero:
            sample = data.inputs(slice(0, min(n_cells, N_SAMPLED)))
            pca = InputPca.fit(data.inputs(InputPca.choose_rows(n_cells, sample.nnz / sample.shape[0])))
        shared: InputPca | None = trainer.strategy.broadcast(pca)
        return shared

    @contextmanager
    def _make_coordinates(
        self, data: ScalexDataModule, trainer: Trainer, pca: InputPca | None
    ) -> Iterator[np.ndarray | ScratchTable | None]:
        """Yield storage for the cells' coordinates in the components: memory, or a file that is removed at the end."""
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
            # Rank 0 reads the file that all processes have written.
            if trainer.is_global_zero:
                kept.remove()

    def _write(
        self, target: Path, adata: AnnData, data: ScalexDataModule, module: Model, coordinates: np.ndarray | ScratchTable | None
    ) -> None:
        if data.in_memory:
            # As in anndata. For cells in files it is not known whether a text repeats.
            adata.strings_to_categoricals()
        with atomic_write(target) as path, h5py.File(path, "w") as file:
            writer = BlockWriter(file, compression="gzip")
            fit: ImputationFit | None = None
            for rows in data.row_chunks():
                block, of_block = self._block(rows, adata, data, module, coordinates)
                writer.append(block)
                fit = fit.add(of_block) if fit is not None and of_block is not None else of_block
            writer.finish(uns=adata.uns, obsp=adata.obsp)
            if fit is not None:
                writer.replace_var(fit.add_to(adata.var, _all_measured(data), SEEN))
        note = "" if data.in_memory or self.expression else "; expression stays in the source"
        logger.info("Wrote %s (%s cells x %s features%s)", target, *(f"{n:,}" for n in adata.shape), note)

    def _add_values(self, adata: ad.AnnData, part: slice, data: ScalexDataModule, module: Model) -> ImputationFit | None:
        """Add X, raw and layers["impute"] to consecutive cells, as far as they are requested, and return how the last agrees."""
        has_expression = self.expression or (self.expression is None and data.in_memory)
        code = get_domain_code(self.impute, data.domains)
        if not has_expression and code is None:
            return None
        normalized = data.normalized(part)
        if has_expression:
            adata.X = data.inputs(part)
            var = data.cells.var.loc[data.preprocessor.kept_features].copy()
            adata.raw = ad.AnnData(normalized, obs=adata.obs[[]], var=var)
        if code is None:
            return None
        domain = data.domain[part]
        adata.layers["impute"] = module.impute(adata.obsm["latent"], domain if code < 0 else np.full(len(domain), code))
        return ImputationFit.of(adata.layers["impute"], normalized[:, data.preprocessor.input_position])

    def _block(
        self, rows: slice, adata: AnnData, data: ScalexDataModule, module: Model, coordinates: np.ndarray | ScratchTable | None
    ) -> tuple[AnnData, ImputationFit | None]:
        """Return consecutive cells, with the values that are not in memory, and how those of them that are imputed now agree."""
        obsm = {name: np.asarray(values[rows]) for name, values in adata.obsm.items()}
        block = ad.AnnData(obs=adata.obs.iloc[rows], var=adata.var, obsm=obsm, varm=dict(adata.varm), varp=dict(adata.varp))
        if not data.in_memory:
            if isinstance(coordinates, ScratchTable):
                block.obsm[INPUT_PCA] = coordinates[rows]
            return block, self._add_values(block, rows, data, module)
        if adata.X is not None:
            block.X = adata.X[rows]
        if adata.raw is not None:
            block.raw = ad.AnnData(adata.raw.X[rows], obs=block.obs[[]], var=adata.raw.var)
        for name, values in adata.layers.items():
            block.layers[name] = values[rows]
        return block, None


def _all_measured(data: ScalexDataModule) -> np.ndarray:
    return np.ones(len(data.preprocessor.features), bool)


def _make_anndata(data: ScalexDataModule) -> ad.AnnData:
    """Return kept cells x input features, without values."""
    preprocessor, cells = data.preprocessor, data.cells
    obs = cells.obs.iloc[data.rows].copy()
    domain = pd.Categorical(cells.domain[data.rows]).remove_unused_categories()
    if "domain" in obs and not np.array_equal(obs["domain"].astype(str), domain.astype(str)):
        logger.warning("The domains of the training replace obs['domain'] of the input.")
    obs["domain"] = domain
    adata = ad.AnnData(obs=obs, var=cells.var.loc[preprocessor.features].copy())
    adata.uns["scalex"] = {"version": version("scalex"), "parameters": convert_to_uns(data.parameters)}
    return adata
