"""A reference: a finished run that new cells are projected into."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.cells import AnnDataSource
from scalex.model.module import Statistics
from scalex.projection.project import embed, project
from scalex.reference.finished_run import FinishedRun
from scalex.runs.log import log_to

__all__ = ["Reference"]

# The columns of `LabelTransfer.predict`.
TRANSFERRED = ("label", "best", "probability", "runner_up", "unknown")


@dataclass(frozen=True, eq=False, repr=False)
class Reference(FinishedRun):
    """A finished run that new cells are projected into. Open one with `load`; the attributes are those of `FinishedRun`."""

    def embed(
        self,
        adata: ad.AnnData | str | Path,
        *,
        batch_key: str | None = None,
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
    ) -> NDArray[np.float32]:
        """Return the latents of cells in their order, (n_cells, n_latent) float32.

        Parameters
        ----------
        adata
            Cells or a path, with values of the kind that the model was trained on; see `describe`.
        batch_key
            Column of obs with each cell's domain. None: "batch", if there is such a column.
        statistics
            Encoder statistics, as in `ScalexModule`. None: the statistics of the reference's own latents.
        chunk_size
            Number of cells embedded at a time.

        Raises
        ------
        ValueError, KeyError, FileNotFoundError
            If the cells do not fit the model; see `project`.
        """
        with log_to(None):
            return embed(self, _make_source(adata, batch_key), statistics=statistics, chunk_size=chunk_size)

    def project(
        self,
        adata: ad.AnnData | str | Path,
        *,
        batch_key: str | None = None,
        repeat: bool = False,
        impute: bool | str | None = None,
        label: str | None = "cell_type",
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
    ) -> ad.AnnData:
        """Project cells, and return them with their fit to the reference; see `scalex.projection.project.project`.

        Parameters
        ----------
        adata, batch_key, statistics, chunk_size
            As in `embed`.
        repeat
            Return the projected cells alone, without those of the reference.
        impute
            Add layers["impute"], each cell decoded through its own domain (True) or through the named one.
        label
            Column of the reference's obs to transfer; as in `scalex.projection.project.project`.
        """
        with log_to(None), h5py.File("projection", "w", driver="core", backing_store=False) as file:
            project(
                self,
                _make_source(adata, batch_key),
                file,
                repeat=repeat,
                impute=impute,
                label=label,
                statistics=statistics,
                chunk_size=chunk_size,
            )
            return ad.io.read_elem(file)

    def transfer_labels(
        self,
        adata: ad.AnnData | str | Path,
        label: str = "cell_type",
        *,
        batch_key: str | None = None,
        statistics: Statistics | None = None,
    ) -> pd.DataFrame:
        """Give each cell a label of the reference, or "unknown", with its probability.

        Parameters
        ----------
        adata, batch_key, statistics
            As in `embed`.
        label
            Column of the reference's obs.

        Returns
        -------
        DataFrame
            A row for each cell, indexed by cell name; see `LabelTransfer.predict` for the columns.

        Raises
        ------
        KeyError
            If the reference has no such label; the message lists its labels.
        """
        self.check_label(label)
        obs = self.project(adata, batch_key=batch_key, repeat=True, label=label, statistics=statistics).obs
        return obs[[f"{label}_{name}" for name in TRANSFERRED]].set_axis(list(TRANSFERRED), axis=1)

    def impute(
        self,
        adata: ad.AnnData | str | Path,
        domain: str | None = None,
        *,
        batch_key: str | None = None,
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
    ) -> ad.AnnData:
        """Return the projected cells with layers["impute"], their expression decoded through `domain`, or through their own.

        Raises
        ------
        ValueError
            If the model does not know the domain; the message lists its domains.
        """
        return self.project(
            adata,
            batch_key=batch_key,
            repeat=True,
            impute=True if domain is None else domain,
            label=None,
            statistics=statistics,
            chunk_size=chunk_size,
        )


def _make_source(adata: ad.AnnData | str | Path, batch_key: str | None) -> AnnDataSource:
    return AnnDataSource(path=adata, batch_key=batch_key)
