"""The cells of a reference and new ones for continued training: normalized expression, read in chunks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.cells import StoredMatrix
from scalex.features.annotation import stack_tables
from scalex.h5ad.common_columns import conform, find_common_types, find_free_suffix
from scalex.projection.query import Query
from scalex.reference.about import PACKED_RAW_VAR
from scalex.reference.finished_run import FinishedRun

__all__ = ["GrownCells", "open_expression"]

# Columns of obs that a projection added, and that do not hold after another training.
DROPPED_COLUMNS = ("leiden", "distance", "outside", "filtered")


@dataclass(frozen=True)
class GrownCells:
    """Old cells, followed by new ones. See `scalex.cells.Cells` for the attributes.

    Parameters
    ----------
    old
        Normalized expression of the reference's cells, in its file.
    query
        The new cells.
    kept
        Ascending rows of `query` to train on.
    """

    old: StoredMatrix
    query: Query
    kept: NDArray[np.int64]
    obs: pd.DataFrame
    var: pd.DataFrame
    domain: pd.Categorical
    label: pd.Categorical | None = None
    # The model's inputs are in memory. Expression is read again where it is needed.
    in_memory: bool = True
    memory_gb: float | None = None
    cache: Path | None = None
    identity: str | None = None

    @classmethod
    def of(cls, reference: FinishedRun, query: Query, kept: NDArray[np.int64], label: str) -> GrownCells:
        """Join the cells of a reference and the kept new ones; `label` names the column of labels."""
        own = reference.cells.obs.assign(projection=pd.Categorical(["reference"] * reference.cells.n_obs, ["reference", "query"]))
        own = own[[name for name in own if name not in DROPPED_COLUMNS]]
        added = query.cells.obs.iloc[kept].copy()
        added["domain"] = pd.Categorical(np.asarray(query.domains, object)[query.cells.domain.codes[kept]])
        added["projection"] = pd.Categorical(["query"] * len(kept), ["reference", "query"])
        types = find_common_types([own, added])
        added.index = added.index + find_free_suffix(own.index, lambda: [added.index])
        obs = stack_tables([conform(own, types), conform(added, types)])
        known = pd.Categorical(obs[label]) if label in obs else None
        domain = pd.Categorical(obs["domain"].astype(str))
        return cls(open_expression(reference), query, kept, obs, reference.raw_var, domain, known)

    def read_obs(self, rows: slice) -> pd.DataFrame:
        """Return the annotation of a run of cells."""
        return self.obs.iloc[rows]

    def read(self, rows: slice | NDArray[np.int64]) -> sparse.csr_matrix:
        """Return normalized expression, (len(rows), n_features) float32. An array of rows ascends without repeats."""
        wanted = np.arange(len(self.obs))[rows]
        n_old = self.old.shape[0]
        before, after = wanted[wanted < n_old], wanted[wanted >= n_old] - n_old
        new = self.query.transform.normalized(self.query.cells.read(self.kept[after]))
        if len(before) == 0:
            return new
        old = self.old.read(before)
        return old if len(after) == 0 else sparse.vstack([old, new], format="csr")


def open_expression(reference: FinishedRun) -> StoredMatrix:
    """Open the normalized expression of a reference's cells.

    Raises
    ------
    ValueError
        If the file holds none, or has other features.
    """
    path = reference.folder / "adata.h5ad"
    with h5py.File(path) as file:
        has_expression, is_packed = isinstance(file.get("raw"), h5py.Group), PACKED_RAW_VAR in file
    if is_packed:
        raise ValueError(
            f"{reference.given} holds no expression, since it is a packed reference, and continued training needs that of its cells. Give "
            "the run folder that was packed, or project new cells (append=true)."
        )
    if not has_expression and reference.lineage[-1]["action"].startswith("projected"):
        trained = reference.lineage[0]["folder"]
        raise ValueError(
            f"{path} holds no expression, since cells were added to it by projection. Start from the version that was trained ({trained}), "
            "with the cells added since then as dataset.path."
        )
    if not has_expression:
        raise ValueError(
            f"{path} holds no expression, since its cells stayed in their files during the training (backed). Train it again with "
            "callbacks.latent_export.expression=true, which writes expression block by block."
        )
    if not reference.raw_var.index.equals(reference.trained_on.preprocessor.kept_features):
        raise ValueError(f"The features of raw in {path} are not those of the model in the same folder.")
    return StoredMatrix(path, "raw/X")
