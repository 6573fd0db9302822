"""A reference: a finished run with methods for new cells."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.cells import AnnDataSource
from scalex.features.annotation import rename_column
from scalex.model.module import Statistics
from scalex.projection.adaptation import fit_adapter
from scalex.projection.project import embed, project
from scalex.reference.about import About
from scalex.reference.adapter import Adapter
from scalex.reference.finished_run import FinishedRun
from scalex.reference.pack import pack
from scalex.reference.plain_arrays import write_plain_arrays
from scalex.runs.log import log_to
from scalex.system.settings import check_call

__all__ = ["Reference"]

# The columns of `LabelTransfer.predict`.
LABEL_COLUMNS = ("label", "best", "probability", "runner_up", "unknown")


@dataclass(frozen=True, eq=False, repr=False)
class Reference(FinishedRun):
    """A finished run, into whose space new cells are projected. `load` opens one. The attributes are those of `FinishedRun`."""

    def embed(
        self,
        adata: ad.AnnData | str | Path,
        *,
        batch_key: str | None = None,
        layer: str = "X",
        adapter: Adapter | str | Path | None = None,
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
        least_found: float = 0.3,
    ) -> NDArray[np.float32]:
        """Return the latents of cells, (n_cells, n_latent) float32, in their order.

        Parameters
        ----------
        adata
            Cells, or the path of an .h5ad file, with values like those of the training cells; see `describe`.
        batch_key
            Column of obs with the domain of each cell. None: "batch", if that column exists.
        layer
            The matrix with the values: "X", "raw" or the name of a layer.
        adapter
            An adapter of `fit_adapter`, or its folder. None: cells lie where the frozen encoder puts them.
        statistics
            Encoder statistics, as in `ScalexModule`. None: the statistics of the reference's own latents.
        chunk_size
            Number of cells embedded at a time.
        least_found
            Smallest share of the model's features that the cells must have.

        Raises
        ------
        ValueError, KeyError, FileNotFoundError
            If the cells do not fit the model; see `project`.
        """
        with log_to(None):
            source = _make_source(adata, batch_key, layer)
            return embed(
                self, source, adapter=_open_adapter(adapter), statistics=statistics, chunk_size=chunk_size, least_found=least_found
            )  # fmt: skip

    def fit_adapter(
        self,
        adata: ad.AnnData | str | Path,
        *,
        batch_key: str | None = None,
        layer: str = "X",
        fit_on: str | None = None,
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
        least_found: float = 0.3,
        seed: int = 124,
    ) -> Adapter:
        """Fit an adapter to cells of domains unlike all of the training. The reference stays as it is.

        Parameters
        ----------
        adata, batch_key, layer, statistics, chunk_size, least_found
            As in `embed`. Cells of one domain are adapted together: `batch_key` may name the technology instead of the donor.
        fit_on
            A condition on columns of obs, such as ``'condition == "control"'``: only these cells take part, and the adapter applies to
            all. Where the domain is the condition of interest, an adapter without `fit_on` removes the effect of the condition.
        seed
            Seed of the samples and clusters.

        Raises
        ------
        ValueError, KeyError, FileNotFoundError
            If a domain has fewer than 100 such cells, if `fit_on` is no condition on obs, and as in `embed`.
        """
        with log_to(None):
            source = _make_source(adata, batch_key, layer)
            return fit_adapter(
                self, source, fit_on=fit_on, statistics=statistics, chunk_size=chunk_size, least_found=least_found, seed=seed
            )  # fmt: skip

    def project(
        self,
        adata: ad.AnnData | str | Path,
        *,
        batch_key: str | None = None,
        layer: str = "X",
        repeat: bool = False,
        impute: bool | str | None = None,
        label: str | None = "cell_type",
        adapter: Adapter | str | Path | None = None,
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
        least_found: float = 0.3,
    ) -> ad.AnnData:
        """Project cells into the reference's space. See `scalex.projection.project.project` for the result.

        Parameters
        ----------
        adata, batch_key, layer, adapter, statistics, chunk_size, least_found
            As in `embed`.
        repeat
            Return only the projected cells, without those of the reference.
        impute
            Decode each cell through its own domain (True) or through the named one, into layers["impute"].
        label
            Column of the reference's obs to transfer, as in `scalex.projection.project.project`.

        Raises
        ------
        ValueError, KeyError, FileNotFoundError
            As in `scalex.projection.project.project`.
        """
        with log_to(None), h5py.File("projection", "w", driver="core", backing_store=False) as file:
            project(
                self,
                _make_source(adata, batch_key, layer),
                file,
                repeat=repeat,
                impute=impute,
                label=label,
                adapter=_open_adapter(adapter),
                statistics=statistics,
                chunk_size=chunk_size,
                least_found=least_found,
            )
            return ad.io.read_elem(file)

    def transfer_labels(
        self,
        adata: ad.AnnData | str | Path,
        label: str = "cell_type",
        *,
        batch_key: str | None = None,
        layer: str = "X",
        adapter: Adapter | str | Path | None = None,
        statistics: Statistics | None = None,
        least_found: float = 0.3,
    ) -> pd.DataFrame:
        """Return the type of each cell with its probability, or "unknown" if the reference does not have that type.

        Parameters
        ----------
        adata, batch_key, layer, adapter, statistics, least_found
            As in `embed`.
        label
            Column of the reference's obs.

        Returns
        -------
        DataFrame
            One row per cell, with the cell's name as the index. See `LabelTransfer.predict` for the columns.

        Raises
        ------
        KeyError, ValueError
            If the reference has no such labels. The message lists those it has.
        """
        label = rename_column(label)
        self.check_label(label)
        projected = self.project(
            adata, batch_key=batch_key, layer=layer, repeat=True, label=label, adapter=adapter, statistics=statistics,
            least_found=least_found,
        )  # fmt: skip
        obs = projected.obs
        return obs[[f"{label}_{name}" for name in LABEL_COLUMNS]].set_axis(list(LABEL_COLUMNS), axis=1)

    def impute(
        self,
        adata: ad.AnnData | str | Path,
        domain: str | None = None,
        *,
        batch_key: str | None = None,
        layer: str = "X",
        adapter: Adapter | str | Path | None = None,
        statistics: Statistics | None = None,
        chunk_size: int = 20_000,
        least_found: float = 0.3,
    ) -> ad.AnnData:
        """Return the projected cells with layers["impute"], their expression as if measured in `domain`. None: in their own domain.

        Raises
        ------
        ValueError
            If the model does not know the domain. The message lists those it knows.
        """
        return self.project(
            adata,
            batch_key=batch_key,
            layer=layer,
            repeat=True,
            impute=True if domain is None else domain,
            label=None,
            adapter=adapter,
            statistics=statistics,
            chunk_size=chunk_size,
            least_found=least_found,
        )

    @check_call
    def pack(
        self,
        path: str | Path,
        *,
        obs: bool | Sequence[str] = True,
        title: str | None = None,
        species: str | None = None,
        license: str | None = None,
        contact: str | None = None,
    ) -> str:
        """Write the reference to one .zip for others, without the expression of its cells, and return the sha256 of the file.

        It holds what projection, label transfer and imputation need, and a card, ``README.md``. `load` opens it.

        Parameters
        ----------
        path
            The file to write, which ends with .zip and does not exist.
        obs
            Which columns of obs the file holds besides the domains and clusters: all of them (True), none (False) or these. Names of the
            cells are kept only with all columns. Labels that are left out cannot be transferred.
        title, species, license, contact
            Text for the card.

        Raises
        ------
        FileExistsError
            If the file exists.
        KeyError
            If there is no such column.
        ValueError
            If the name of the file does not end with .zip.
        OSError
            If the disk has no space.
        """
        return pack(self, Path(path), About(title, species, license, contact), obs=obs)

    def to_numpy(self, path: str | Path) -> None:
        """Write the preprocessing and the encoder as plain arrays to a .npz file.

        The page about sharing has a reader in NumPy. It gives the latents of `embed` with the running statistics to cells of new domains.

        Parameters
        ----------
        path
            The file to write, which ends with .npz and does not exist.

        Raises
        ------
        FileExistsError
            If the file exists.
        ValueError
            If the name of the file does not end with .npz, or if the model is of another kind than `ScalexModule`.
        """
        write_plain_arrays(self, Path(path))


def _open_adapter(adapter: Adapter | str | Path | None) -> Adapter | None:
    return adapter if adapter is None or isinstance(adapter, Adapter) else Adapter.load(adapter)


def _make_source(adata: ad.AnnData | str | Path, batch_key: str | None, layer: str) -> AnnDataSource:
    return AnnDataSource(path=adata, batch_key=batch_key, layer=layer)
