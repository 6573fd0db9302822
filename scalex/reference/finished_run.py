"""A finished run: its trained model, and its cells without their expression."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any, Self

import anndata as ad
import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from scalex.features.annotation import make_writable
from scalex.features.species import describe_names, guess_species
from scalex.formats.hdf5 import check_links
from scalex.model.base import Model
from scalex.model.models import load_model
from scalex.model.trained_on import TrainedOn
from scalex.reference.about import PACKED_RAW_VAR, About
from scalex.reference.input_pca import INPUT_PCA, STEPS, InputPca
from scalex.reference.label_transfer import LabelTransfer, has_label
from scalex.reference.latent_map import LatentMap
from scalex.reference.lineage import GROWTH, LINEAGE, describe_version, read_json
from scalex.reference.place import CELLS, CHECKPOINT, SCORES, Place, open_place

__all__ = ["FinishedRun"]


@dataclass(frozen=True, eq=False)
class FinishedRun:
    """The folder of a finished run: a trained model, and its cells without their expression.

    The cells' expression is not read. No code from the folder is executed: the model is plain tensors and values.

    Attributes
    ----------
    folder
        The folder of the run. For an archive, the one in the user's cache to which it was unpacked.
    module
        The trained model.
    lineage
        The versions from the first to this one, each with "folder", "action", "n_cells" and "version".
    given
        What `load` was given.
    """

    folder: Path
    module: Model
    lineage: tuple[dict[str, Any], ...]
    given: str

    @classmethod
    def load(cls, folder: str | Path) -> Self:
        """Open a finished run.

        Parameters
        ----------
        folder
            Folder that ``scalex train`` or ``SCALEX(outdir=...)`` wrote, with ``checkpoint/best.ckpt`` and ``adata.h5ad``; a .zip of one,
            also one that `Reference.pack` wrote; or the address of such a .zip with its checksum, ``https://host/file.zip#sha256=...``,
            which is downloaded once. No code from it is executed.

        Raises
        ------
        FileNotFoundError
            If there is no such folder or file, or if one of the two files is not in it.
        ValueError
            If a file is not valid or has a newer format, or an archive is not safe to unpack. The message names it.
        OSError
            If the archive cannot be downloaded.
        """
        with open_place(folder) as place:
            run = cls._open(place)
            if place.is_new:
                run.check_cells()
            return run

    @classmethod
    def _open(cls, place: Place) -> Self:
        folder = place.folder
        paths = checkpoint, adata = folder / CHECKPOINT, folder / CELLS
        growth = read_json(folder / GROWTH)
        if growth is not None and not (isinstance(growth, dict) and "accepted" in growth):
            raise ValueError(f"{folder / GROWTH} is broken (it does not say whether the growth was accepted): copy the folder again.")
        if growth is not None and not growth["accepted"]:
            raise ValueError(
                f"{folder} is not a reference: it is a continued training that did not finish, or that lowered the scores of the old cells "
                f"too much ({GROWTH}). Use the reference that it continued."
            )
        missing = [str(path.relative_to(folder)) for path in paths if not path.is_file()]
        if missing:
            raise FileNotFoundError(
                f"{folder} is not a reference: it lacks {' and '.join(missing)}. Give the folder of a finished training."
            )
        module = load_model(checkpoint)
        assert module.trained_on is not None
        n_latent = module.hparams["n_latent"]
        with _open_adata(adata) as file:
            latent = file.get("obsm/latent")
            shape: tuple[int, ...] = latent.shape if isinstance(latent, h5py.Dataset) else ()
        if len(shape) != 2 or shape[1] != n_latent:
            raise ValueError(f"{adata} does not belong to {checkpoint}, whose model needs obsm['latent'] of {n_latent} dimensions.")
        versions = read_json(folder / LINEAGE)
        if versions is None:
            versions = [describe_version(place.name, "trained", module.trained_on.n_cells, module.trained_on.version)]
        keys = {"folder", "action", "n_cells", "version"}
        if not (isinstance(versions, list) and versions and all(isinstance(one, dict) and keys <= one.keys() for one in versions)):
            raise ValueError(f"{folder / LINEAGE} is broken (it is no list of versions): copy the folder again.")
        return cls(folder, module, tuple(versions), place.given)

    @cached_property
    def cells(self) -> ad.AnnData:
        """The cells without their expression: obs, var, obsm["latent"] and, if the run computed them, UMAP and clusters.

        They are read at their first use, since embedding new cells does not need them.

        Raises
        ------
        ValueError
            If the file is damaged.
        """
        with _open_adata(self.folder / CELLS) as file:
            optional = [name for name in ("varm", "uns") if name in file]
            parts = {name: ad.io.read_elem(file[name]) for name in ("obs", "var", "obsm", *optional)}
        # A user may have written the file again with other versions of anndata and pandas.
        parts |= {name: make_writable(parts[name], f"{name} of {self.folder}") for name in ("obs", "var")}
        obs = parts["obs"]
        for name in obs.select_dtypes(object):
            # Text of an earlier query, in which "" stands for a missing value.
            obs[name] = pd.Categorical(obs[name].where(obs[name] != ""))
        obsm = parts["obsm"]
        if INPUT_PCA in obsm:
            # A packed reference has whole numbers of steps.
            steps = parts.get("uns", {}).get(INPUT_PCA, {}).pop(STEPS, None)
            obsm[INPUT_PCA] = np.asarray(obsm[INPUT_PCA], np.float32) if steps is None else np.multiply(obsm[INPUT_PCA], steps)
        try:
            return ad.AnnData(**parts)
        except ValueError as error:
            raise ValueError(f"{self.folder / CELLS} is damaged ({error}).") from error

    def check_cells(self) -> None:
        """Read all that is known of the cells, so that damage is found now.

        Raises
        ------
        ValueError
            If a part is damaged or missing.
        """
        if "domain" not in self.cells.obs:
            raise ValueError(f"{self.folder / CELLS} is damaged (obs has no column domain).")
        if not np.isfinite(self.latent).all():
            raise ValueError(f"{self.folder / CELLS} is damaged (a latent is not finite).")
        _ = self.raw_var, self.scores

    @cached_property
    def raw_var(self) -> pd.DataFrame:
        """Annotation of the kept features."""
        with _open_adata(self.folder / CELLS) as file:
            if isinstance(file.get("raw"), h5py.Group):
                return make_writable(ad.io.read_elem(file["raw/var"]), f"raw/var of {self.folder}")
            if PACKED_RAW_VAR in file:
                return make_writable(ad.io.read_elem(file[PACKED_RAW_VAR]), f"{PACKED_RAW_VAR} of {self.folder}")
        return pd.DataFrame(index=self.trained_on.preprocessor.kept_features)

    @property
    def trained_on(self) -> TrainedOn:
        """Features, domains and preprocessing of the model."""
        assert self.module.trained_on is not None
        return self.module.trained_on

    @property
    def about(self) -> About:
        """What the maker of a packed reference says of it, and the species as far as the features tell it."""
        told = About.from_uns(self.cells.uns)
        return replace(told, species=told.species or guess_species(self.trained_on.preprocessor.features))

    @property
    def scores(self) -> dict[str, float]:
        """The scores of the run; none if it did not compute them."""
        scores = read_json(self.folder / SCORES)
        return {name: float(one) for name, one in scores.items() if isinstance(one, int | float)} if isinstance(scores, dict) else {}

    @property
    def input_pca(self) -> InputPca | None:
        """Principal components of the training cells' inputs, or None if the run did not keep them."""
        return InputPca.from_anndata(self.cells)

    @property
    def latent(self) -> NDArray[np.float32]:
        """(n_cells, n_latent) latents of the reference's cells."""
        return np.asarray(self.cells.obsm["latent"], np.float32)

    def describe(self) -> dict[str, Any]:
        """Return a description of the model and its cells.

        Returns
        -------
        dict
            "folder" (what `load` was given), "version", "n_training_cells", "n_cells", "n_features", "n_latent", "domains" (with their
            numbers of cells), "labels" (columns of obs that can be transferred), "values" (the values that new cells must have), "names"
            (the kind of the features' names), "statistics", "scores", "lineage", and, of a packed reference, "title", "species", "license"
            and "contact", and "all_columns", which is False if columns of its cells' annotation were left out. The species is also known
            where names are Ensembl identifiers.
        """
        trained_on, obs, about = self.trained_on, self.cells.obs, self.about
        counts = obs["domain"].value_counts()
        preprocessor = trained_on.preprocessor
        processed = "normalized values" if preprocessor.fractional else "values used as they are"
        return {
            "folder": self.given,
            "version": trained_on.version,
            "n_training_cells": trained_on.n_cells,
            "n_cells": self.cells.n_obs,
            "n_features": trained_on.n_features,
            "n_latent": self.module.hparams["n_latent"],
            "domains": {str(domain): int(counts[domain]) for domain in counts.index},
            "labels": self.labels,
            "values": processed if preprocessor.normalization == "none" else "counts",
            "names": describe_names(preprocessor.features),
            "statistics": self.module.hparams["statistics"],
            "scores": self.scores,
            "lineage": list(self.lineage),
            "title": about.title,
            "species": about.species,
            "license": about.license,
            "contact": about.contact,
            "all_columns": about.all_columns,
        }

    def _repr_html_(self) -> str:
        """Return the description as a table, for notebooks."""
        rows = "".join(
            f'<tr><th style="text-align:left">{escape(name)}</th><td style="text-align:left">{escape(_show(value))}</td></tr>'
            for name, value in self.describe().items()
        )
        return f"<strong>{type(self).__name__}</strong><table>{rows}</table>"

    def __repr__(self) -> str:
        return f"{type(self).__name__}\n" + "\n".join(f"  {name}: {value}" for name, value in self.describe().items())

    @property
    def labels(self) -> list[str]:
        """Columns of obs that can be transferred: the categorical ones except "domain" and "projection"."""
        own = {"domain", "projection"}
        return [str(name) for name, column in self.cells.obs.items() if isinstance(column.dtype, pd.CategoricalDtype) and name not in own]

    def label_transfer(self, label: str) -> LabelTransfer:
        """Fit label transfer to the cells of known type, for any number of queries.

        Raises
        ------
        KeyError, ValueError
            If the reference has no such labels. The message lists those it has.
        """
        self.check_label(label)
        components = self.cells.obsm.get(INPUT_PCA)
        obs = self.cells.obs
        return LabelTransfer.fit(self.latent, pd.Categorical(obs[label]), components, domain=pd.Categorical(obs["domain"]))

    def check_label(self, label: str) -> None:
        """Check that the reference has such labels, which can be transferred.

        Raises
        ------
        KeyError
            If the reference has no such column. The message lists its labels.
        ValueError
            If the column is not categorical, or no cell has a label.
        """
        known = f"It has: {', '.join(self.labels) or 'none'}."
        if label not in self.cells.obs:
            if not self.about.all_columns:
                raise KeyError(f"label={label!r}: the packed reference does not hold such labels of its cells: obs= left them out. {known}")
            raise KeyError(f"label={label!r}: the reference has no such labels. {known}")
        column = self.cells.obs[label]
        if label not in self.labels:
            reason = "tells where cells are from" if isinstance(column.dtype, pd.CategoricalDtype) else "is not categorical"
            raise ValueError(f"label={label!r}: this column of the reference {reason}. Only labels are transferred. {known}")
        if not has_label(pd.Categorical(column)).any():
            raise ValueError(f"label={label!r}: no cell of the reference has a label in this column. {known}")

    def latent_map(self) -> LatentMap:
        """Index the latents, for any number of queries."""
        cells = self.cells
        umap = np.asarray(cells.obsm["X_umap"], np.float32) if "X_umap" in cells.obsm else None
        clustered = "leiden" in cells.obs and cells.obs["leiden"].notna().all()
        cluster = pd.Categorical(cells.obs["leiden"]) if clustered else None
        return LatentMap.fit(self.latent, umap=umap, cluster=cluster)


@contextmanager
def _open_adata(path: Path) -> Iterator[h5py.File]:
    """Open an AnnData file. Errors while it is open say that it is damaged, or that it takes data from other files."""
    try:
        with h5py.File(path) as file:
            check_links(file)
            yield file
    except (OSError, KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{path} is not a readable AnnData file ({error}).") from error


def _show(value: Any) -> str:
    """Return a value of the description as text."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {_show(one)}" for name, one in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(str(one["action"]) if isinstance(one, dict) and "action" in one else str(one) for one in value) or "none"
    if value is None:
        return "not given"
    return f"{value:,}" if isinstance(value, int) else f"{value:.3g}" if isinstance(value, float) else str(value)
