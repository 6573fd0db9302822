"""The blocks of a projection: one AnnData for each chunk of cells."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.data import CellBatch
from scalex.features.annotation import rename_column
from scalex.model.imputation import check_domains
from scalex.model.imputation_fit import ImputationFit
from scalex.projection.query import Query
from scalex.projection.report import Tally
from scalex.reference.adapter import Adapter
from scalex.reference.finished_run import FinishedRun
from scalex.reference.input_pca import INPUT_PCA
from scalex.reference.label_transfer import UNKNOWN
from scalex.system.chunks import chunks

__all__ = ["IMPUTE_FIT", "QueryBlocks", "make_projection_column", "make_reference_blocks"]

logger = logging.getLogger(__name__)

# The default label may be absent from the reference. Any other label must exist.
DEFAULT_LABEL = "cell_type"
# Entry of a block's uns with the sums of `ImputationFit` over its cells.
IMPUTE_FIT = "impute_fit"


class QueryBlocks:
    """The blocks of the new cells.

    Attributes
    ----------
    reference, data
        The reference, and the query that is projected into it.
    impute
        Code of the domain to decode through, as `scalex.model.imputation.get_domain_code` returns it.
    tally
        Tally for the report. The caller adds each block to it.
    """

    def __init__(
        self, reference: FinishedRun, data: Query, *, label: str | None, impute: int | None, adapter: Adapter | None, query_only: bool
    ) -> None:
        self.reference = reference
        self.data = data
        self.impute = impute
        self._adapter = adapter
        self._query_only = query_only
        self._map = reference.latent_map()
        self._pca = reference.input_pca
        self._input_position = reference.trained_on.preprocessor.input_position
        self._label = _find_label(reference, label)
        self._transfer = None if self._label is None else reference.label_transfer(self._label)
        self.tally = Tally(reference, data, self._map, self._label, adapter)

    def make_block(self, batch: CellBatch, latent: NDArray[np.float32]) -> ad.AnnData:
        """Return the block of one chunk, from its cells and their latents, (n_cells, n_latent) float32."""
        first = int(batch.row_C[0])
        rows = slice(first, first + len(latent))
        components = self._compute_components(batch)
        encoded = None
        if self._adapter is not None:
            encoded = latent
            latent, components = self._adapter.apply(latent, batch.domain_C.numpy(), self.data.domains, components)
        obs, umap = self._describe_cells(latent, encoded, components, batch, rows)
        reference = self.reference
        block = ad.AnnData(batch.rows.csr() if self._query_only else None, obs=obs, var=reference.cells.var)
        needs_expression = self._query_only or self.impute is not None
        normalized = self.data.transform.normalized(batch.values) if needs_expression else None
        if self._query_only:
            block.raw = ad.AnnData(normalized, obs=obs[[]], var=reference.raw_var)
        block.obsm["latent"] = latent
        if self._pca is not None:
            block.obsm[INPUT_PCA] = components
            block.varm[INPUT_PCA] = self._pca.components
        if umap is not None:
            block.obsm["X_umap"] = umap
        if self.impute is not None:
            domain = self.data.known_domain[self.data.domain(rows)]
            block.layers["impute"] = _impute(reference, latent, domain, self.impute)
            assert normalized is not None
            # Blocks may come from several processes.
            block.uns[IMPUTE_FIT] = ImputationFit.of(block.layers["impute"], normalized[:, self._input_position])
        return block

    def read_example_obs(self) -> pd.DataFrame:
        """Return the obs of one cell, with the columns of all blocks in their types."""
        rows = slice(0, 1)
        batch = self.data.read(rows)
        return self._describe_cells(self.reference.latent[rows], None, self._compute_components(batch), batch, rows)[0]

    def write_labels(self, file: h5py.File, first: int) -> None:
        """Write the final labels of the new cells, which start at row `first` of the file."""
        if self._transfer is None:
            return
        latent, domain = file["obsm/latent"][first:], self.data.domain(slice(0, self.data.n_cells))
        labels = self._transfer.assign_labels(self.tally.best, self.tally.unknown, latent, domain)
        self.tally.set_labels(labels)
        column = file[f"obs/{self._label}_label"]
        categories = pd.Index(ad.io.read_elem(column["categories"]))
        column["codes"][first:] = categories.get_indexer(labels.categories)[labels.codes]

    def _compute_components(self, batch: CellBatch) -> NDArray[np.float32] | None:
        return None if self._pca is None else self._pca.transform(batch.rows.csr(), self.data.transform.fill_value)

    def _describe_cells(
        self,
        latent: NDArray[np.float32],
        encoded: NDArray[np.float32] | None,
        components: NDArray[np.float32] | None,
        batch: CellBatch,
        rows: slice,
    ) -> tuple[pd.DataFrame, NDArray[np.float32] | None]:
        """Return the obs and the UMAP coordinates of consecutive cells; `encoded` as in `compute_evidence`."""
        n_cells = rows.stop - rows.start
        placement = self._map.place(latent)
        obs = self.data.cells.read_obs(rows).copy()
        obs["domain"] = pd.Categorical.from_codes(self.data.domain(rows), categories=list(self.data.domains))
        obs["projection"] = make_projection_column("query", n_cells)
        assert batch.values is not None
        obs["filtered"] = self.data.transform.count_detected(batch.values) < self.reference.trained_on.preprocessor.min_features
        obs["distance"] = placement.distance
        obs["outside"] = placement.outside
        if placement.cluster is not None:
            obs["leiden"] = placement.cluster
        if self._transfer is not None:
            evidence = self._transfer.compute_evidence(latent, components, encoded=encoded)
            # Whether a cell is unknown depends on the other cells of its domain: `write_labels` sets the final labels.
            evidence.insert(0, "label", pd.Categorical(evidence["best"], [*self._transfer.types, UNKNOWN]))
            for name, column in evidence.items():
                obs[f"{self._label}_{name}"] = column.set_axis(obs.index)
        return obs, placement.umap


def _find_label(reference: FinishedRun, label: str | None) -> str | None:
    """Return the label to transfer, or None if the reference does not have the default label.

    Raises
    ------
    KeyError, ValueError
        If the label is not the default one, and the reference does not have it.
    """
    if label is None:
        return None
    label = rename_column(label)
    try:
        reference.check_label(label)
    except (KeyError, ValueError) as error:
        if label != DEFAULT_LABEL:
            raise
        logger.info("No labels are transferred: %s", error.args[0])
        return None
    return label


def make_projection_column(value: str, n: int) -> pd.Categorical:
    """Return obs["projection"] of `n` cells: "reference" or "query"."""
    return pd.Categorical([value], categories=["reference", "query"]).repeat(n)


def make_reference_blocks(reference: FinishedRun, obs: pd.DataFrame, impute: int | None, chunk_size: int) -> Iterator[ad.AnnData]:
    """Yield the blocks of the reference's cells, without expression."""
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


def _impute(reference: FinishedRun, latent: NDArray[np.float32], domain: NDArray[np.int64], impute: int) -> NDArray[np.float32]:
    return reference.module.impute(latent, domain if impute == -1 else np.full(len(latent), impute))
