"""All scores of an embedding."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scalex.metrics.entropy_mixing import batch_entropy_mixing, shared_mixing
from scalex.metrics.kept_clusters import kept_clusters
from scalex.metrics.kept_neighbors import kept_neighbors
from scalex.metrics.neighbors import find_nearest
from scalex.metrics.silhouette import silhouette
from scalex.metrics.wrong_neighbors import wrong_neighbors

__all__ = ["SCORES", "choose_some", "scores"]

# Names of the scores of which more is better.
SCORES = ("total", "biology", "entropy_mixing", "mixed", "shared", "kept", "kept_clusters", "silhouette", "ari", "nmi")
# Above this number of cells, a sample is compared, since the time grows with the square.
MAX_COMPARED = 20_000
# Components of the coordinates before the integration in which neighbours are found.
N_COMPONENTS = 30
# Weight of the kept clusters in biology without labels. It ranks settings better than kept neighbours alone (docs/model.md).
CLUSTERS_WEIGHT = 0.25
# Number of neighbours among which the domains are counted.
N_NEIGHBORS = 100


def scores(
    latent: NDArray[np.float32],
    *,
    domain: pd.Categorical,
    cluster: pd.Categorical,
    label: pd.Categorical | None = None,
    before: NDArray[np.float32] | None = None,
) -> dict[str, float]:
    """Compute the scores of an embedding, except those that are not defined for the cells.

    Parameters
    ----------
    latent
        (n_cells, n_latent).
    domain, cluster, label
        (n_cells,) the domain, the cluster and the label of each cell.
    before
        (n_cells, n_components) principal components of the inputs, for "kept" and "kept_clusters", which use the first 30.

    Returns
    -------
    dict
        "entropy_mixing" in [0, 1], for two domains or more, with "mixed" in [0, 1] and "shared" in [0, 1], the results of
        `shared_mixing` in the clusters. "kept", at most 1, and "kept_clusters" in [-1, 1], the means of `kept_neighbors` and
        `kept_clusters`. "silhouette" in [-1, 1], of the labels, or of
        the clusters without labels. "ari" in [-1, 1] and "nmi" in [0, 1], of clusters against labels; "wrong", the mean of
        `wrong_neighbors`. "biology" in [0, 1], the mean of ari, nmi and (silhouette + 1) / 2; without labels .75 kept +
        .25 (kept_clusters + 1) / 2, or kept alone if domains are too small for clusters, or without both (silhouette + 1) / 2.
        "total" = 0.6 biology + 0.4 entropy_mixing, the weights of scIB (Luecken et al. 2022); with one domain, biology alone.
    """
    found: dict[str, float] = {}
    nearest = find_nearest(latent, N_NEIGHBORS)
    if len(domain.remove_unused_categories().categories) > 1:
        found["entropy_mixing"] = batch_entropy_mixing(latent, domain, nearest=nearest)
        found |= shared_mixing(latent, domain, cluster, nearest=nearest)._asdict()
    if before is not None:
        some = choose_some(len(latent))
        compared = before[some, :N_COMPONENTS], latent[some], domain[some]
        found["kept"], found["kept_clusters"] = _mean(kept_neighbors(*compared)), _mean(kept_clusters(*compared))
    biology = []
    group = cluster
    if label is not None:
        known = ~label.isna()
        latent, cluster, group = latent[known], cluster[known], label[known]
        found["ari"] = float(adjusted_rand_score(group, cluster))
        found["nmi"] = float(normalized_mutual_info_score(group, cluster))
        found["wrong"] = _mean(wrong_neighbors(latent, group, nearest=nearest if known.all() else None))
        biology = [found["ari"], found["nmi"]]
    elif not np.isnan(found.get("kept", np.nan)):
        biology = [found["kept"]]
        if not np.isnan(found["kept_clusters"]):
            biology = [(1 - CLUSTERS_WEIGHT) * found["kept"] + CLUSTERS_WEIGHT * (found["kept_clusters"] + 1) / 2]
    if 2 <= len(group.remove_unused_categories().categories) < len(group):
        found["silhouette"] = silhouette(latent, group)
        if label is not None or not biology:
            biology.append((found["silhouette"] + 1) / 2)
    if biology:
        found["biology"] = found["total"] = float(np.mean(biology))
        if "entropy_mixing" in found:
            found["total"] = 0.6 * found["biology"] + 0.4 * found["entropy_mixing"]
    return {name: value for name, value in found.items() if not np.isnan(value)}


def choose_some(n_cells: int, *, seed: int = 124) -> NDArray[np.int64]:
    """Return the ascending rows of a random sample of 20,000 cells, or of all if there are no more."""
    if n_cells <= MAX_COMPARED:
        return np.arange(n_cells)
    return np.sort(np.random.default_rng(seed).choice(n_cells, MAX_COMPARED, replace=False))


def _mean(values: NDArray[np.float64]) -> float:
    """Return the mean of the values that are defined, or NaN."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else float("nan")
