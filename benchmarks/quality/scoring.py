"""Scores of embeddings, and a file that remembers figures that took long."""

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

__all__ = ["BATCH_METRICS", "BIO_METRICS", "Remembered", "score", "stand_in"]

AGGREGATES = {"Total": "total", "Bio conservation": "bio", "Batch correction": "batch"}
BIO_METRICS = {
    "isolated_labels": "isolated labels",
    "nmi_ari_cluster_labels_kmeans_nmi": "NMI",
    "nmi_ari_cluster_labels_kmeans_ari": "ARI",
    "silhouette_label": "silhouette label",
    "clisi_knn": "cLISI",
}
BATCH_METRICS = {"bras": "BRAS", "ilisi_knn": "iLISI", "kbet_per_label": "kBET", "graph_connectivity": "graph connectivity"}

# Starts of k-means for the steady total.
N_STARTS = 10


def score(latent: NDArray[np.float32], domain: pd.Series, label: pd.Series) -> dict[str, float]:
    """All of scib-metrics but the comparison of principal components, and `over_correction`.

    The first call for an array of some shape takes much longer than the later ones, for which jax has compiled.

    Parameters
    ----------
    latent
        (n_cells, n_latent).
    domain, label
        (n_cells,) domain and known type of each cell.

    Returns
    -------
    dict
        "bio" and "batch", means of the metrics in `BIO_METRICS` and `BATCH_METRICS`; "total", which is 0.6 bio + 0.4 batch; "steady
        bio" and "steady total", the same with NMI and ARI as means over `N_STARTS` starts of k-means, since the single one of scib-metrics
        can move a total by .02; each metric by itself; and what `over_correction` gives.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19:41 (2022).
    """
    # Here, since they compile for a minute and need not be there for `stand_in`.
    import jax
    from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

    names = [f"cell-{i}" for i in range(len(latent))]
    obs = pd.DataFrame({"domain": domain.to_numpy(str), "label": label.to_numpy(str)}, index=names).astype("category")
    # It tells which labels are isolated.
    logging.getLogger("scib_metrics").setLevel(logging.WARNING)
    benchmarker = Benchmarker(
        AnnData(obs=obs, obsm={"latent": latent}),
        batch_key="domain",
        label_key="label",
        embedding_obsm_keys=["latent"],
        # Only the comparison of principal components, which is off, looks at an embedding from before the integration;
        # without one, all genes would be read and a PCA be made of them.
        pre_integrated_embedding_obsm_key="latent",
        bio_conservation_metrics=BioConservation(),
        batch_correction_metrics=BatchCorrection(pcr_comparison=False),
        n_jobs=1,
        progress_bar=False,
    )
    # It looks for garbage before each metric, which takes half the time among the many objects of jax and torch.
    with patch("scib_metrics.benchmark._core.gc"):
        benchmarker.benchmark()
    found = benchmarker.get_results(min_max_scale=False, clean_names=False).loc["latent"]
    scores = {ours: float(found[theirs]) for theirs, ours in (AGGREGATES | BIO_METRICS | BATCH_METRICS).items()}
    bio = scores | _of_clusters(latent, label.to_numpy(str))
    scores["steady bio"] = float(np.mean([bio[name] for name in BIO_METRICS.values()]))
    scores["steady total"] = 0.6 * scores["steady bio"] + 0.4 * scores["batch"]
    # Of cells in other numbers nothing serves again, and what is kept of many sets is more than the system allows.
    jax.clear_caches()
    return scores | over_correction(latent, label.to_numpy(str))


def stand_in(latent: NDArray[np.float32], domain: pd.Series, label: pd.Series) -> dict[str, float]:
    """Figures of the names that `score` gives, in milliseconds and without scib-metrics: silhouettes in the place of its metrics.

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


def _of_clusters(latent: NDArray[np.float32], label: NDArray[np.str_]) -> dict[str, float]:
    """NMI and ARI of the labels with as many clusters of k-means, means over its starts."""
    from scib_metrics.utils import KMeans

    n_types = len(np.unique(label))
    clusters = [KMeans(n_types, seed=seed).fit(latent).labels_ for seed in range(N_STARTS)]
    scores = {"NMI": normalized_mutual_info_score, "ARI": adjusted_rand_score}
    return {name: float(np.mean([score(label, cluster) for cluster in clusters])) for name, score in scores.items()}


class Remembered:
    """Figures in a JSON file, each under a key that says what it depends on.

    Parameters
    ----------
    path
        The file; made when the first figure is put in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._figures = self._read()

    def get(self, key: str) -> dict[str, float] | None:
        """The figures under `key`, if there are any."""
        return self._figures.get(key)

    def put(self, key: str, figures: dict[str, float]) -> None:
        """Remember figures, in the file too."""
        # Another process may have put something there.
        self._figures = self._read() | {key: figures}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Replaced whole, so that a run that is stopped loses nothing.
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._figures, indent=2) + "\n")
        unfinished.replace(self._path)

    def _read(self) -> dict[str, dict[str, float]]:
        return json.loads(self._path.read_text()) if self._path.exists() else {}
