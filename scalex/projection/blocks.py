"""The cells of a projection in blocks, one AnnData per chunk."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.data import CellBatch
from scalex.model.imputation import check_domains
from scalex.projection.query import Query
from scalex.projection.report import Tally
from scalex.reference.finished_run import FinishedRun
from scalex.reference.input_pca import INPUT_PCA
from scalex.reference.label_transfer import UNKNOWN, has_label
from scalex.system.chunks import chunks

__all__ = ["QueryBlocks", "iter_reference_blocks", "repeat_origin"]

logger = logging.getLogger(__name__)

# The label that is transferred if the reference has it. Any other label must exist.
DEFAULT_LABEL = "cell_type"


class QueryBlocks:
    """Maker of one AnnData per chunk of new cells.

    Attributes
    ----------
    reference, data
        The reference and the query.
    impute
        Code of the domain to decode through, from `scalex.model.imputation.get_domain_code`.
    tally
        The tally of the blocks, for the report.
    """

    def __init__(self, reference: FinishedRun, data: Query, *, label: str | None, impute: int | None, alone: bool) -> None:
        self.reference = reference
        self.data = data
        self.impute = impute
        self._alone = alone
        self._map = reference.latent_map()
        self._pca = reference.input_pca
        self._label = _check_label(reference, label)
        self._transfer = None if self._label is None else reference.label_transfer(self._label)
        self.tally = Tally(reference, data, self._map, self._label)

    def make_block(self, batch: CellBatch, latent: NDArray[np.float32]) -> ad.AnnData:
        """Make the AnnData of a chunk."""
        first = int(batch.row_C[0])
        rows = slice(first, first + len(latent))
        components = self._components(batch)
        obs, umap = self._columns(latent, components, batch, rows)
        reference = self.reference
        block = ad.AnnData(batch.rows.csr() if self._alone else None, obs=obs, var=reference.cells.var)
        if self._alone:
            block.raw = ad.AnnData(self.data.transform.normalized(batch.values), obs=obs[[]], var=reference.raw_var)
        block.obsm["latent"] = latent
        if self._pca is not None:
            block.obsm[INPUT_PCA] = components
            block.varm[INPUT_PCA] = self._pca.components
        if umap is not None:
            block.obsm["X_umap"] = umap
        if self.impute is not None:
            known = self.data.known_domain[self.data.domain(rows)]
            block.layers["impute"] = _impute(reference, latent, known, self.impute)
        return block

    def example_obs(self) -> pd.DataFrame:
        """Return the obs of one cell, as an example of the columns and types of all blocks."""
        rows = slice(0, 1)
        batch = self.data.read(rows)
        return self._columns(self.reference.latent[rows], self._components(batch), batch, rows)[0]

    def name_unknown(self, file: h5py.File, first: int) -> None:
        """Write "unknown" to the labels of cells whose type is not in the reference; `first` is the query's first row."""
        if self._transfer is None:
            return
        labels = self._transfer.choose_labels(self.tally.best, self.tally.unknown)
        self.tally.set_labels(labels)
        column = file[f"obs/{self._label}_label"]
        written = pd.Index(ad.io.read_elem(column["categories"]))
        column["codes"][first:] = written.get_indexer(labels.categories)[labels.codes]

    def _components(self, batch: CellBatch) -> NDArray[np.float32] | None:
        return None if self._pca is None else self._pca.transform(batch.rows.csr(), self.data.transform.fill_value)

    def _columns(
        self, latent: NDArray[np.float32], components: NDArray[np.float32] | None, batch: CellBatch, rows: slice
    ) -> tuple[pd.DataFrame, NDArray[np.float32] | None]:
        """Return obs and UMAP coordinates of a run of cells."""
        n_cells = rows.stop - rows.start
        placed = self._map.place(latent)
        obs = self.data.cells.read_obs(rows).copy()
        obs.index = obs.index.astype(str)
        obs["domain"] = pd.Categorical.from_codes(self.data.domain(rows), categories=list(self.data.domains))
        obs["projection"] = repeat_origin("query", n_cells)
        assert batch.values is not None
        obs["filtered"] = self.data.transform.count_detected(batch.values) < self.reference.trained_on.preprocessor.min_features
        obs["distance"] = placed.distance
        obs["outside"] = placed.outside
        if placed.cluster is not None:
            obs["leiden"] = placed.cluster
        if self._transfer is not None:
            predicted = self._transfer.compute_evidence(latent, components)
            # Unknown cells are named when the evidence of all cells is known: see `name_unknown`.
            predicted.insert(0, "label", pd.Categorical(predicted["best"], [*self._transfer.types, UNKNOWN]))
            for name, column in predicted.items():
                obs[f"{self._label}_{name}"] = column.set_axis(obs.index)
        return obs, placed.umap


def _check_label(reference: FinishedRun, label: str | None) -> str | None:
    """Return the label to transfer; None if it is the default and the reference has none.

    Raises
    ------
    KeyError
        If the reference does not have another label.
    """
    if label is None:
        return None
    if label in reference.labels and has_label(pd.Categorical(reference.cells.obs[label])).any():
        return label
    if label != DEFAULT_LABEL:
        reference.check_label(label)
    logger.info("No labels are transferred: the reference has none in obs[%r]. It has: %s", label, ", ".join(reference.labels) or "none")
    return None


def repeat_origin(value: str, n: int) -> pd.Categorical:
    """Return obs["projection"] of `n` cells."""
    return pd.Categorical([value], categories=["reference", "query"]).repeat(n)


def iter_reference_blocks(reference: FinishedRun, obs: pd.DataFrame, impute: int | None, chunk_size: int) -> Iterator[ad.AnnData]:
    """Yield the reference's cells in blocks, without expression."""
    cells = reference.cells
    codes = pd.Index(reference.trained_on.domains).get_indexer(pd.Index(cells.obs["domain"].astype(str)))
    if impute == -1:
        check_domains(cells.obs["domain"].astype(str)[codes < 0].unique(), reference.trained_on.domains)
    for rows in chunks(cells.n_obs, chunk_size):
        block = ad.AnnData(obs=obs.iloc[rows], var=cells.var)
        block.obsm["latent"] = reference.latent[rows]
        if INPUT_PCA in cells.obsm:
            block.obsm[INPUT_PCA] = np.asarray(cells.obsm[INPUT_PCA][rows])
            block.varm[INPUT_PCA] = cells.varm[INPUT_PCA]
        if "X_umap" in cells.obsm:
            block.obsm["X_umap"] = np.asarray(cells.obsm["X_umap"][rows], np.float32)
        if impute is not None:
            block.layers["impute"] = _impute(reference, reference.latent[rows], codes[rows], impute)
        yield block


def _impute(reference: FinishedRun, latent: NDArray[np.float32], own: NDArray[np.int64], impute: int) -> NDArray[np.float32]:
    return reference.module.impute(latent, own if impute == -1 else np.full(len(latent), impute))
