"""Labelled cells for measurements of integration, and their changed copies for the checks of `run.py`."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal, Self, TypeAlias

import anndata as ad
import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import sparse

from scalex.demo import demo_cells

__all__ = [
    "ONE_DOMAIN",
    "SETS",
    "CellSet",
    "LabelledCells",
    "centred_log_ratio",
    "cut_at_random",
    "draw_few",
    "make_cells",
    "restrict_types",
    "sample",
]

# The options of `preprocess` in train.py.
Kind: TypeAlias = Literal["rna", "adt", "atac"]
# Features of RNA that scalex drops, and that do not count for min_features.
NOT_COUNTED = ("ERCC", "MT-", "mt-")
# Most domains of a draw of few cells, and the share of the scarce one of an uneven draw, compared with the others.
MAX_DRAWN_DOMAINS = 4
SCARCE = 0.25
# Classes of leftover cells, which are not types.
LEFTOVER = ("Mis",)


@dataclass(frozen=True, eq=False)
class LabelledCells:
    """Cells that all methods get.

    Attributes
    ----------
    name
        Name in tables and files.
    adata
        Cells with counts in X, (n_cells, n_features) float32 CSR, and with obs "batch" and "cell_type".
    min_features
        Number of detected features that all cells have at least.
    kind
        Kind of the features.
    settings
        Further overrides for train.py.
    """

    name: str
    adata: ad.AnnData
    min_features: int
    kind: Kind
    settings: tuple[str, ...] = ()

    @property
    def overrides(self) -> list[str]:
        """Return the overrides for train.py, without the file."""
        counted = [] if self.kind == "adt" else [f"preprocess.min_features={self.min_features}"]
        return [f"preprocess={self.kind}", *counted, *self.settings]

    @cached_property
    def fingerprint(self) -> str:
        """Return a hash of all that a method gets: values, names and domains."""
        digest = hashlib.sha256()
        for array in (self.adata.X.data, self.adata.X.indices, self.adata.X.indptr):
            digest.update(np.ascontiguousarray(array).tobytes())
        for names in (self.adata.obs_names, self.adata.var_names, self.adata.obs["batch"]):
            digest.update("\n".join(map(str, names)).encode())
        return digest.hexdigest()[:12]

    def select(self, kept: NDArray[np.bool_], name: str) -> Self:
        """Return some of the cells under another name.

        Parameters
        ----------
        kept
            (n_cells,) whether a cell is selected.
        name
            Name of the selected cells.
        """
        adata = self.adata[kept].copy()
        for column in ("batch", "cell_type"):
            adata.obs[column] = adata.obs[column].cat.remove_unused_categories()
        return replace(self, name=name, adata=adata)


@dataclass(frozen=True)
class CellSet:
    """Files of labelled cells and their description.

    Attributes
    ----------
    files
        Names of .h5ad files without the ending; several files are joined on their shared features.
    tuned
        Whether settings of the package were chosen on this set.
    min_features
        Cells with fewer detected features are dropped.
    kind
        Counts of RNA, of surface proteins (all are used) or of peaks.
    domain
        The only domain to keep. If None, all are kept.
    """

    files: tuple[str, ...]
    tuned: bool
    min_features: int = 100
    kind: Kind = "rna"
    domain: str | None = None

    def read(self, name: str, folder: Path) -> LabelledCells:
        """Return the cells, without those of leftover classes.

        Parameters
        ----------
        name
            Name of the set.
        folder
            Folder of the files.
        """
        parts = [ad.read_h5ad(folder / f"{file}.h5ad") for file in self.files]
        adata = parts[0] if len(parts) == 1 else ad.concat(parts, join="inner")
        kept = ~adata.obs["cell_type"].isin(LEFTOVER).to_numpy()
        if self.domain is not None:
            kept &= (adata.obs["batch"] == self.domain).to_numpy()
        if self.kind != "adt":
            counted = ~adata.var_names.str.startswith(NOT_COUNTED)
            kept &= (adata.X > 0) @ counted.astype(np.float64) >= self.min_features
        obs = adata.obs.loc[kept, ["batch", "cell_type"]].astype(str).astype("category")
        counts = sparse.csr_matrix(adata.X[np.flatnonzero(kept)], dtype=np.float32)
        cells = ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=adata.var_names))
        return LabelledCells(name, cells, self.min_features, self.kind)


SETS = {
    "pancreas_celseq_indrop": CellSet(("pancreas_celseq_indrop",), tuned=True),
    "celllines_mixology": CellSet(("celllines_mixology",), tuned=True),
    "kang_ctrl_stim": CellSet(("kang_ctrl_stim",), tuned=True),
    "celllines_joined": CellSet(("celllines_mixology", "celllines_10x5cl"), tuned=True),
    "kang_ctrl_stim_scgen": CellSet(("kang_ctrl_stim_scgen",), tuned=True),
    "kang_ctrl_donors": CellSet(("kang_ctrl_donors",), tuned=False),
    "mop_rna": CellSet(("mop_rna",), tuned=True, min_features=10),
    "mop_rna_vs_geneactivity": CellSet(("mop_rna_vs_geneactivity",), tuned=False, min_features=10),
    "pbmc_protein_asap_cite": CellSet(("pbmc_protein_asap_cite",), tuned=False, kind="adt"),
    "mop_atac": CellSet(("mop_atac",), tuned=False, min_features=10, kind="atac"),
}
ONE_DOMAIN = {
    "pancreas_indrop4": CellSet(("pancreas_celseq_indrop",), tuned=True, domain="inDrop4"),
    "hemato_paul15": CellSet(("hemato_paul15",), tuned=False),
    "celllines_10x5cl": CellSet(("celllines_10x5cl",), tuned=True),
}


def make_cells(name: str, cell_set: CellSet) -> LabelledCells:
    """Return demo cells instead of a set, with two of its domains and types, for trainings of a few steps.

    Parameters
    ----------
    name
        Name of the set.
    cell_set
        The set.
    """
    cells = demo_cells(400, 400, 2)
    domain = cells.obs["batch"].astype(object).map({"domain0": "inDrop4", "domain1": "celseq"})
    # Types of a single domain are dropped, since some scores are not defined for them.
    kept = cells.obs["cell_type"].isin(["alpha", "beta", "gamma", "stem"]).to_numpy()
    if cell_set.domain is not None:
        kept &= (domain == cell_set.domain).to_numpy()
    obs = pd.DataFrame({"batch": domain, "cell_type": cells.obs["cell_type"].astype(object).replace({"gamma": "ductal"})})
    adata = ad.AnnData(cells.X[np.flatnonzero(kept)], obs=obs[kept].astype("category"), var=cells.var[[]])
    return LabelledCells(name, adata, 50, cell_set.kind, ("model.max_steps=4", "model.n_hidden=16", "model.correct_at=[0.5]"))


def centred_log_ratio(counts: sparse.csr_matrix) -> NDArray[np.float32]:
    """Return the logarithm of 1 + counts minus its mean over the features of the cell; (n_cells, n_features).

    Parameters
    ----------
    counts
        (n_cells, n_features).
    """
    logs = np.log1p(counts.toarray())
    ratio: NDArray[np.float32] = logs - logs.mean(1, keepdims=True)
    return ratio


def cut_at_random(cells: LabelledCells, seed: int) -> LabelledCells:
    """Return the same cells in two random domains, "a" and "b".

    Parameters
    ----------
    cells
        Cells.
    seed
        Seed of the cut.
    """
    adata = cells.adata.copy()
    half = np.random.default_rng(seed).permutation(np.arange(adata.n_obs) % 2)
    adata.obs["batch"] = pd.Categorical(np.array(["a", "b"])[half])
    return replace(cells, name=f"{cells.name}, cut {seed}", adata=adata)


def draw_few(cells: LabelledCells, n_cells: int, draw: int, *, uneven: bool) -> LabelledCells:
    """Return few of the cells, of at most `MAX_DRAWN_DOMAINS` domains.

    Parameters
    ----------
    cells
        Cells.
    n_cells
        Number of cells in all, or fewer where a domain has not enough.
    draw
        Number of the draw, its seed.
    uneven
        Whether one domain has `SCARCE` times as many cells as each of the others, instead of as many.
    """
    rng = np.random.default_rng([n_cells, draw, uneven])
    batch = cells.adata.obs["batch"].to_numpy(str)
    domains = rng.permutation(np.unique(batch))[:MAX_DRAWN_DOMAINS]
    weight = np.ones(len(domains))
    weight[0] = SCARCE if uneven else 1
    size = np.round(n_cells * weight / weight.sum()).astype(int)
    kept = np.zeros(len(batch), bool)
    for domain, n in zip(domains, size, strict=True):
        kept[rng.permutation(np.flatnonzero(batch == domain))[:n]] = True
    return cells.select(kept, f"{cells.name}, {n_cells} cells{', uneven' if uneven else ''}, draw {draw}")


def restrict_types(cells: LabelledCells, domain_of: Mapping[str, str]) -> LabelledCells:
    """Return the cells, but for some types only those of one domain.

    Parameters
    ----------
    cells
        Cells.
    domain_of
        Domain that keeps its cells, for each of these types.
    """
    wanted = cells.adata.obs["cell_type"].astype(object).map(domain_of)
    kept = wanted.isna() | (wanted == cells.adata.obs["batch"].astype(object))
    ending = ", ".join(f"{one} in {domain}" for one, domain in domain_of.items())
    return cells.select(kept.to_numpy(bool), f"{cells.name}, {ending}")


def sample(obs: pd.DataFrame, n_cells: int, seed: int) -> NDArray[np.int64]:
    """Return the sorted rows of a random sample, with each type of each domain by its share, but at least one cell.

    Parameters
    ----------
    obs
        "batch" and "cell_type" of each cell.
    n_cells
        Approximate number of cells; all are returned if there are no more.
    seed
        Seed of the sample.
    """
    if len(obs) <= n_cells:
        return np.arange(len(obs))
    rng = np.random.default_rng(seed)
    groups = pd.Series(np.arange(len(obs))).groupby([obs["batch"].to_numpy(str), obs["cell_type"].to_numpy(str)])
    share = n_cells / len(obs)
    return np.sort(np.concatenate([rng.choice(rows, max(round(len(rows) * share), 1), replace=False) for _, rows in groups]))
