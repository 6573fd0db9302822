"""A reference: a finished run, and what a user does with new cells and it."""

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
    """A finished run, into whose space new cells are projected. Open one with `load`; the attributes are those of `FinishedRun`."""

    def embed(
        self,
        adata: ad.AnnData | str | Path,
        *,
        batch_key: str | None = None,
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
    ) -> NDArray[np.float32]:
        """Latents of cells, (n_cells, n_latent) float32, in their order.

        Parameters
        ----------
        adata
            Cells, or the path of an .h5ad file, with values as the model was trained on: see `describe`.
        batch_key
            Column of obs with each cell's domain; None: "batch" where there is one.
        statistics
            Encoder statistics, as in `ScalexModule`; None: those with which the reference's own latents were made.
        chunk_size
            Cells embedded at a time.

        Raises
        ------
        ValueError, KeyError, FileNotFoundError
            Where the cells do not fit the model; see `project`.
        """
        with log_to(None):
            return embed(self, _source(adata, batch_key), statistics=statistics, chunk_size=chunk_size)

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
        """Put cells into the reference's space and say how well they fit; see `scalex.projection.project.project` for the result.

        Parameters
        ----------
        adata, batch_key, statistics, chunk_size
            As in `embed`.
        repeat
            Return the projected cells alone, without those of the reference.
        impute
            Decode each cell through its own domain (True) or through the named one, into layers["impute"].
        label
            Column of the reference's obs to transfer; as in `scalex.projection.project.project`.
        """
        with log_to(None), h5py.File("projection", "w", driver="core", backing_store=False) as file:
            project(
                self,
                _source(adata, batch_key),
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
        """Say what type each cell is, how sure that is, and where it is none that the reference has.

        Parameters
        ----------
        adata, batch_key, statistics
            As in `embed`.
        label
            Column of the reference's obs.

        Returns
        -------
        DataFrame
            A row for each cell, by its name; see `LabelTransfer.predict` for the columns.

        Raises
        ------
        KeyError
            If the reference has no such labels; the message lists those it has.
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
        """The projected cells with layers["impute"]: what they would show if they were measured in `domain`; None: in their own.

        Raises
        ------
        ValueError
            If the model does not know the domain; the message lists those it knows.
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


def _source(adata: ad.AnnData | str | Path, batch_key: str | None) -> AnnDataSource:
    return AnnDataSource(path=adata, batch_key=batch_key)
