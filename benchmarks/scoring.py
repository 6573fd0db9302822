"""scIB scores of latents, and a file that remembers figures that took long."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
from anndata import AnnData
from numpy.typing import NDArray
from scib_metrics.benchmark import BatchCorrection, Benchmarker, BioConservation

__all__ = ["Remembered", "score"]

NAMES = {"Total": "total", "Bio conservation": "bio", "Batch correction": "batch"}


def score(latent: NDArray[np.float32], domain: pd.Series, label: pd.Series) -> dict[str, float]:
    """Scores of scib-metrics: "bio" and "batch", and "total", which is 0.6 bio + 0.4 batch.

    Parameters
    ----------
    latent
        (n_cells, n_latent).
    domain, label
        (n_cells,) domain and known type of each cell.

    References
    ----------
    Luecken et al., Benchmarking atlas-level data integration in single-cell genomics, Nature Methods 19:41 (2022).
    """
    names = [f"cell-{i}" for i in range(len(latent))]
    obs = pd.DataFrame({"domain": domain.to_numpy(str), "label": label.to_numpy(str)}, index=names).astype("category")
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
    benchmarker.benchmark()
    found = benchmarker.get_results(min_max_scale=False).loc["latent"]
    return {ours: float(found[theirs]) for theirs, ours in NAMES.items()}


class Remembered:
    """Figures in a JSON file, each under a key that says what it depends on.

    Parameters
    ----------
    path
        The file; made when the first figure is put in.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._figures: dict[str, dict[str, float]] = json.loads(path.read_text()) if path.exists() else {}

    def get(self, key: str) -> dict[str, float] | None:
        """The figures under `key`, if there are any."""
        return self._figures.get(key)

    def put(self, key: str, figures: dict[str, float]) -> None:
        """Remember figures, in the file too."""
        self._figures[key] = figures
        self._path.parent.mkdir(parents=True, exist_ok=True)
        # Replaced whole, so that a run that is stopped loses nothing.
        unfinished = self._path.with_suffix(".unfinished")
        unfinished.write_text(json.dumps(self._figures, indent=2) + "\n")
        unfinished.replace(self._path)
