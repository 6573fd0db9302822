"""All scores of an embedding."""

from __future__ import annotations

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scalex.metrics.entropy_mixing import batch_entropy_mixing
from scalex.metrics.silhouette import silhouette

__all__ = ["SCORES", "scores"]

# Names of the scores.
SCORES = ("total", "entropy_mixing", "silhouette", "ari", "nmi")


def scores(
    latent: NDArray[np.float32],
    *,
    domain: pd.Categorical,
    cluster: pd.Categorical,
    label: pd.Categorical | None = None,
) -> dict[str, float]:
    """Compute the scores of an embedding, except those that are not defined for the cells.

    Parameters
    ----------
    latent
        (n_cells, n_latent).
    domain, cluster, label
        (n_cells,) the domain, the cluster and the label of each cell.

    Returns
    -------
    dict
        "entropy_mixing" in [0, 1], for two domains or more. "silhouette" in [-1, 1], of the labels, or of the clusters without labels.
        "ari" in [-1, 1] and "nmi" in [0, 1], of clusters against labels. "total" = 0.6 biology + 0.4 mixing, the weights of scIB
        (Luecken et al. 2022). Biology is the mean of ari, nmi and (silhouette + 1) / 2, or only the last without labels. With one
        domain, the total is biology.
    """
    found: dict[str, float] = {}
    if len(domain.remove_unused_categories().categories) > 1:
        found["entropy_mixing"] = batch_entropy_mixing(latent, domain)
    biology = []
    group = cluster
    if label is not None:
        known = ~label.isna()
        latent, cluster, group = latent[known], cluster[known], label[known]
        found["ari"] = float(adjusted_rand_score(group, cluster))
        found["nmi"] = float(normalized_mutual_info_score(group, cluster))
        biology += [found["ari"], found["nmi"]]
    if 2 <= len(group.remove_unused_categories().categories) < len(group):
        found["silhouette"] = silhouette(latent, group)
        biology.append((found["silhouette"] + 1) / 2)
    if biology:
        found["total"] = float(np.mean(biology))
        if "entropy_mixing" in found:
            found["total"] = 0.6 * found["total"] + 0.4 * found["entropy_mixing"]
    return found
