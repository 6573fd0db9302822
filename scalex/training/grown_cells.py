"""The cells of a reference and new ones, for a training that goes on: normalized expression, read in pieces."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells import StoredMatrix
from scalex.h5ad.common_columns import conform, find_common_types, find_free_suffix
from scalex.projection.query import Query
from scalex.reference.finished_run import FinishedRun

__all__ = ["GrownCells", "open_expression"]

# Columns of obs that a projection added, which say nothing after another training.
DROPPED = ("leiden", "distance", "outside", "filtered")


@dataclass(frozen=True)
class GrownCells:
    """Old cells and new ones after them. See `scalex.cells.Cells` for the attributes.

    Parameters
    ----------
    old
        Normalized expression of the reference's cells, which stays in its file.
    query
        The new cells.
    kept
        Rows of `query` that are trained on, ascending.
    """

    old: StoredMatrix
    query: Query
    kept: NDArray[np.int64]
    obs: pd.DataFrame
    var: pd.DataFrame
    domain: pd.Categorical
    label: pd.Categorical | None = None
    # The model's inputs are; expression is read again where it is needed.
    in_memory: bool = True
    memory_gb: float | None = None
    cache: Path | None = None
    identity: str | None = None

    @classmethod
    def of(cls, reference: FinishedRun, query: Query, kept: NDArray[np.int64], label: str) -> GrownCells:
        """Put the cells of a reference and the new ones that are kept together; `label` names the column of known types."""
        own = reference.cells.obs.assign(projection=pd.Categorical(["reference"] * reference.cells.n_obs, ["reference", "query"]))
        own = own[[name for name in own if name not in DROPPED]]
        added = query.cells.obs.iloc[kept].copy()
        added["domain"] = pd.Categorical(query.cells.domain[kept].astype(str))
        added["projection"] = pd.Categorical(["query"] * len(kept), ["reference", "query"])
        types = find_common_types([own, added])
        added.index = added.index.astype(str)
        added.index = added.index + find_free_suffix(own.index, lambda: [added.index])
        obs = pd.concat([conform(own, types), conform(added, types)])
        known = pd.Categorical(obs[label]) if label in obs else None
        domain = pd.Categorical(obs["domain"].astype(str))
        return cls(open_expression(reference), query, kept, obs, reference.raw_var, domain, known)

    def read_obs(self, rows: slice) -> pd.DataFrame:
        """The annotation of a run of cells."""
        return self.obs.iloc[rows]

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Normalized expression of `rows`, (len(rows), n_features) float32; an array of rows ascends, each once."""
        wanted = np.arange(len(self.obs))[rows]
        n_old = self.old.shape[0]
        before, after = wanted[wanted < n_old], wanted[wanted >= n_old] - n_old
        new = self.query.transform.normalized(self.query.cells.read(self.kept[after]))
        if len(before) == 0:
            return new
        old = self.old.read(before)
        return old if len(after) == 0 else sparse.vstack([old, new], format="csr")


def open_expression(reference: FinishedRun) -> StoredMatrix:
    """Normalized expression of a reference's cells, in its file.

    Raises
    ------
    ValueError
        If the file holds none, or that of other features.
    """
    path = reference.folder / "adata.h5ad"
    with h5py.File(path) as file:
        has_expression = isinstance(file.get("raw"), h5py.Group)
    if not has_expression and reference.lineage[-1]["action"] == "projected":
        trained = reference.lineage[0]["folder"]
        raise ValueError(
            f"{path} holds no expression: cells were added to it by projection. Go on from the version that was trained ({trained}), "
            "with the cells added since as dataset.path."
        )
    if not has_expression:
        raise ValueError(
            f"{path} holds no expression, since its cells stayed in their files when it was trained (backed). Train it again with "
            "callbacks.latent_export.expression=true, which writes it block by block."
        )
    if not reference.raw_var.index.equals(reference.trained_on.preprocessor.kept_features):
        raise ValueError(f"The features of raw in {path} are not those of the model beside it.")
    return StoredMatrix(path, "raw/X")
