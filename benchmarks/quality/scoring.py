"""Scores of embeddings, and a file that stores them."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, silhouette_score

from benchmarks.quality.over_correction import over_correction

__all__ = ["BATCH_METRICS", "BIO_METRICS", "ScoreFile", "score", "stand_in"]

AGGREGATES = {"Total": "total", "Bio conservation": "bio", "Batch correction": "batch"}
BIO_METRICS = {
    "isolated_labels": "isolated labels",
    "nmi_ari_cluster_labels_kmeans_nmi": "NMI",
    "nmi_ari_cluster_labels_kmeans_ari": "ARI",
    "silhouette_label": "silhouette label",
    "clisi_knn": "cLISI",
}
BATCH_METRICS = {"bras": "BRAS", "ilisi_knn": "iLISI", "kbet_per_label": "kBET", "graph_connectivity": "graph connectivity"}

# Number of starts of k-means for the steady total.
N_STARTS = 10


def score(latent: NDArray[np.float32], domain: pd.Series, label: pd.Series) -> dict[str, float]:
    """Return all scores of scib-metrics except the comparison of principal components, and `over_correction`.

    The first call for a shape of array takes much longer than later ones, since jax compiles.

    Parameters
    ----------
    latent
        (n_cells, n_latent).
    domain, label
        (n_cells,) domain and known type of each cell.

    Returns
    -------
    dict
        "bio" and "batch", the means of the metrics in `BIO_METRICS` and `BATCH_METRICS`; "total", which is 0.6 bio + 0.4 batch; "steady
        bio" and "steady total", the same with NMI and ARI as means over `N_STARTS` starts of k-means, since the single start of
        scib-metrics can change a total by .02; each metric by itself; and the results of `over_correction`.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19:41 (2022).
    """
    # The imports are here, since they take long and `stand_in` does not need them.
    import jax
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    names = [f"cell-{i}" for i in range(len(latent))]
    obs = pd.DataFrame({"domain": domain.to_numpy(str), "label": label.to_numpy(str)}, index=names).astype("category")
    # The logger prints which labels are isolated.
    logging.getLogger("scib_metrics").setLevel(logging.WARNING)
    benchmarker = Benchmarker(
        AnnData(obs=obs, obsm={"latent": latent}),
        batch_key="domain",
        label_key="label",
        embedding_obsm_keys=["latent"],
        # Only the comparison of principal components, which is off, uses an embedding from before the integration, but
        # without one, a PCA of all genes would be computed.
        pre_integrated_embedding_obsm_key="latent",
        bio_conservation_metrics=BioConservation(),
        batch_correction_metrics=BatchCorrection(pcr_comparison=False),
        n_jobs=1,
        progress_bar=False,
    )
    # The benchmarker collects garbage before each metric, which takes half the time with the many objects of jax and torch.
    with patch("scib_metrics.benchmark._core.gc"):
        benchmarker.benchmark()
    found = benchmarker.get_results(min_max_scale=False, clean_names=False).loc["latent"]
    scores = {ours: float(found[theirs]) for theirs, ours in (AGGREGATES | BIO_METRICS | BATCH_METRICS).items()}
    bio = scores | _score_clusters(latent, label.to_numpy(str))
    scores["steady bio"] = float(np.mean([bio[name] for name in BIO_METRICS.values()]))
    scores["steady total"] = 0.6 * scores["steady bio"] + 0.4 * scores["batch"]
    # The caches are useless for other numbers of cells, and those of many sets exceed the limits of the system.
    jax.clear_caches()
    return scores | over_correction(latent, label.to_numpy(str))


def stand_in(latent: NDArray[np.float32], domain: pd.Series, label: pd.Series) -> dict[str, float]:
    """Return figures with the names of `score` within milliseconds, from silhouettes instead of scib-metrics.

    Parameters
    ----------
    latent, domain, label
        As for `score`.
    """
    bio = (float(silhouette_score(latent, label)) + 1) / 2
    batch = 1 - abs(float(silhouette_score(latent, domain)))
    scores = dict.fromkeys(BIO_METRICS.values(), bio) | dict.fromkeys(BATCH_METRICS.values(), batch)
    scores |= {"bio": bio, "batch": batch, "total": 0.6 * bio + 0.4 * batch}
    scores |= {"steady bio": scores["bio"], "steady total": scores["total"]}
    return scores | over_correction(latent, label.to_numpy(str))


def _score_clusters(latent: NDArray[np.float32], label: NDArray[np.str_]) -> dict[str, float]:
    """Return NMI and ARI of the labels with as many clusters of k-means, as means over its starts."""
    from scib_metrics.utils import KMeans

    n_types = len(np.unique(label))
    clusters = [KMeans(n_types, seed=seed).fit(latent).labels_ for seed in range(N_STARTS)]
    scores = {"NMI": normalized_mutual_info_score, "ARI": adjusted_rand_score}
    return {name: float(np.mean([score(label, cluster) for cluster in clusters])) for name, score in scores.items()}


class ScoreFile:
    """Figures in a JSON file, under keys that name what they depend on.

    Parameters
    ----------
    path
        The file, which is created with the first figures.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._figures = self._read()

    def get(self, key: str) -> dict[str, float] | None:
        """Return the figures under `key`, or None if there are none."""
        return self._figures.get(key)

    def put(self, key: str, figures: dict[str, float]) -> None:
        """Store figures under `key`, also in the file."""
        # Another process may have changed the file.
        self._figures = self._read() | {key: figures}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # The file is replaced at once, so that a stopped run loses nothing.
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._figures, indent=2) + "\n")
        unfinished.replace(self._path)

    def _read(self) -> dict[str, dict[str, float]]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}
