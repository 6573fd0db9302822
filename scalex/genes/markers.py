"""Markers: features that are higher in one group of cells than in the others."""

from __future__ import annotations

import logging
import warnings

import numpy as np
import pandas as pd
import scanpy as sc
from anndata import AnnData
from numpy.typing import NDArray
from scipy import sparse

from scalex.features.columns import require_column
from scalex.genes.group_sums import sum_groups
from scalex.system.settings import Count, check_call

__all__ = ["MIN_CELLS", "find_markers"]

logger = logging.getLogger(__name__)

# Counts and totals are larger, logarithms are not.
LARGEST_LOG = 30
# Fewest cells of a group, and, in a domain, of a group and of the other cells, to compare them.
MIN_CELLS = 10
COLUMNS = [
    "group", "feature", "auroc", "log2_fold_change", "share_in", "share_out", "score", "adjusted_p", "domains_higher", "domains",
]  # fmt: skip


@check_call
def find_markers(
    adata: AnnData, groupby: str = "leiden", *, domain: str | None = "domain", n_features: Count | None = None, min_cells: Count = MIN_CELLS
) -> pd.DataFrame:
    """Compare each group's cells with all others, by the Wilcoxon rank-sum test of scanpy on normalized expression.

    P-values of clusters are no tests: the clusters were found in the same cells, so that they differ in any case. Use them to order
    features. To test a difference between conditions, compare samples (`scalex.genes.compare_conditions`).

    Parameters
    ----------
    adata
        A result of a training or projection, with logarithmic normalized expression in `.raw`.
    groupby
        Column of obs with the groups: clusters or types.
    domain
        Column of obs with the domain of each cell. None: agreement over domains is not told.
    n_features
        Number of features that are returned of each group, those with the highest scores. None: all.
    min_cells
        Smallest group that is compared. In the agreement, the fewest cells of a domain in the group, and of its other cells.

    Returns
    -------
    DataFrame
        A row for each group and feature, by group and falling score:

        ========================  ==========================================================================================
        "group", "feature"        the group, and the feature's name
        "auroc"                   probability that a cell of the group has more of it than another cell; .5: no difference
        "log2_fold_change"        as in scanpy, of expm1 of the means of the logarithmic expression
        "share_in", "share_out"   shares of the cells that express it, in the group and among the others
        "score"                   z-score of the test
        "adjusted_p"              of the test, Benjamini-Hochberg; see above
        "domains_higher"          number of domains in which the mean is higher in the group than in the domain's other cells
        "domains"                 number of domains with enough cells to tell
        ========================  ==========================================================================================

        A marker with "domains_higher" below "domains" is not one in every laboratory.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If there is no logarithmic expression, names of features are not unique, or there are fewer than two groups of `min_cells` cells.
    """
    group = require_column(adata.obs, groupby, "groupby")
    domains = None if domain is None else require_column(adata.obs, domain, "domain")
    if adata.raw is None:
        raise ValueError(
            "Markers need normalized expression, and there is none (adata.raw is None), as in the result of a training of cells that stay "
            "in files, or of a projection together with its reference. Find them in the training (callbacks=[...,markers]), or project "
            "with repeat=true."
        )
    if not adata.raw.var_names.is_unique:
        repeated = adata.raw.var_names[adata.raw.var_names.duplicated()][0]
        raise ValueError(f"Names of features in adata.raw are not unique ({repeated}): make them so before .raw is set.")
    values = sparse.csr_matrix(adata.raw.X)
    if values.nnz and (largest := float(values.data.max())) > LARGEST_LOG:
        raise ValueError(
            f"Markers need logarithmic expression, and adata.raw has values up to {largest:,.0f}. Normalize them "
            "(scanpy.pp.normalize_total), and take their logarithm (scanpy.pp.log1p)."
        )
    size = group.value_counts()
    groups = [one for one in group.categories if size[one] >= min_cells]
    if len(groups) < 2:
        raise ValueError(f"groupby={groupby!r}: markers need two groups of {min_cells} cells or more, and there are {len(groups)}.")
    few = size[(size < min_cells) & (size > 0)]
    if len(few):
        named = ", ".join(f"{name} ({n})" for name, n in few.items())
        logger.info("Groups of fewer than %d cells have no markers of their own (min_cells): %s", min_cells, named)
    work = AnnData(values, obs=pd.DataFrame({"group": group}, index=adata.obs_names), var=pd.DataFrame(index=adata.raw.var_names))
    # scanpy makes a table column by column, of which pandas warns above 20 groups.
    with warnings.catch_warnings(action="ignore", category=pd.errors.PerformanceWarning):
        # Cells of small groups are among the others of each group.
        sc.tl.rank_genes_groups(work, "group", groups=groups, method="wilcoxon", use_raw=False, n_genes=values.shape[1])
    tables = [sc.get.rank_genes_groups_df(work, str(one)).assign(group=one) for one in groups]
    code = pd.Categorical(group, categories=groups).codes.astype(np.int64)
    shares = _compute_shares(values, code, len(groups))
    agreement = None if domains is None else _count_agreement(values, code, domains, len(groups), min_cells)
    n_cells = len(code)
    for i, table in enumerate(tables):
        feature = work.var_names.get_indexer(table["names"])
        n_in = size[groups[i]]
        # The score of the rank sum is z = (auroc - 1/2) / sqrt((N + 1) / (12 n_in n_out)), without a correction for ties.
        table["auroc"] = np.clip(0.5 + table["scores"] * np.sqrt((n_cells + 1) / (12 * n_in * (n_cells - n_in))), 0, 1)
        table["share_in"], table["share_out"] = (share[i, feature] for share in shares)
        if agreement is not None:
            table["domains_higher"], table["domains"] = (counts[i, feature] for counts in agreement)
    names = {"names": "feature", "logfoldchanges": "log2_fold_change", "scores": "score", "pvals_adj": "adjusted_p"}
    found = pd.concat([table if n_features is None else table.head(n_features) for table in tables], ignore_index=True)
    return found.rename(columns=names)[[one for one in COLUMNS if agreement is not None or not one.startswith("domains")]]


def _compute_shares(values: sparse.csr_matrix, code: NDArray[np.int64], n_groups: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return the share of cells that express each feature in each group and among all other cells, (n_groups, n_features) each."""
    sums = sum_groups(values, code, n_groups)
    everywhere = np.asarray((values > 0).sum(0)).ravel()
    n_in = sums.n_cells[:, None]
    return sums.n_expressing / n_in, (everywhere - sums.n_expressing) / (len(code) - n_in)


def _count_agreement(
    values: sparse.csr_matrix, code: NDArray[np.int64], domain: pd.Categorical, n_groups: int, min_cells: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return in how many domains the mean is higher in the group, and in how many it can be told, (n_groups, n_features) each."""
    higher = np.zeros((n_groups, values.shape[1]), np.int64)
    told = np.zeros((n_groups, values.shape[1]), np.int64)
    for one in range(len(domain.categories)):
        of_domain = domain.codes == one
        own, own_code = values[of_domain], code[of_domain]
        sums = sum_groups(own, own_code, n_groups)
        n_in, n_out = sums.n_cells[:, None], own.shape[0] - sums.n_cells[:, None]
        enough = (n_in >= min_cells) & (n_out >= min_cells)
        total = np.asarray(own.sum(0, dtype=np.float64)).ravel()
        mean_in, mean_out = sums.total / np.maximum(n_in, 1), (total - sums.total) / np.maximum(n_out, 1)
        higher += enough & (mean_in > mean_out)
        told += enough
    return higher, told
