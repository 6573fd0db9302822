"""Scores of the latents, for the result, ``metrics.json``, ``scores.png``, the log and the trackers."""

from __future__ import annotations

import json
import logging
import math
from pathlib import Path

import numpy as np
import pandas as pd
from lightning import Trainer
from numpy.typing import NDArray

from scalex.callbacks.figures import publish_figure
from scalex.callbacks.result import Output, Result
from scalex.metrics import SCORES, batch_entropy_mixing, mixed_types, scores, scores_by_domain, silhouette
from scalex.metrics.scores import N_COMPONENTS, choose_some
from scalex.pl.domains import draw_scores
from scalex.system.atomic_files import atomic_write
from scalex.system.settings import Count, NumberOfNeighbors, Seed, check_call
from scalex.system.stages import STAGE

__all__ = ["SCORE_NAMES", "Scores"]

logger = logging.getLogger(__name__)

# Names in metrics.json of which more is better, if all scores can be computed.
SCORE_NAMES = (*SCORES, "umap_entropy_mixing", "umap_silhouette")
# Number of types that the log names as mixed up, and the smallest share of wrong neighbours with which they count so.
MAX_TYPES = 5
MIN_WRONG = 0.1


@check_call
class Scores(Output):
    """Score the latents with `scalex.metrics.scores`.

    If there is a UMAP, mixing and silhouette are also computed on it, as ``umap_entropy_mixing`` and ``umap_silhouette``. They serve only
    for comparison with the published package, which scores its UMAP. ``scores.png`` shows the mixing of each domain, before and after the
    integration, what is left of its structure, and which types lie among others.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    n_neighbors
        Number of neighbours of a cell in the graph for the clusters.
    seed
        Seed of the clusters.
    max_cells
        Number of cells above which a sample is scored.
    """

    def __init__(
        self, folder: str | Path | None, *, n_neighbors: NumberOfNeighbors = 30, seed: Seed = 124, max_cells: Count = 30_000
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.n_neighbors = n_neighbors
        self.seed = seed
        self.max_cells = max_cells

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Compute the scores, and add, log and write them."""
        sample = result.sample_clusters(self.max_cells, self.seed, self.n_neighbors)
        adata = sample.cells
        values: dict[str, float] = {}
        if adata.n_obs > 2:
            domain, label = adata.obs["domain"].array, result.label
            if label is not None and len(np.unique(label.codes[label.codes >= 0])) < 2:
                logger.info("All labelled cells have the same type, so the scores that need labels are omitted")
                label = None
            if label is not None and sample.rows is not None:
                label = label[sample.rows]
            rows = slice(None) if sample.rows is None else sample.rows
            before = None if result.coordinates is None else result.coordinates[rows]
            values = scores(adata.obsm["latent"], domain=domain, cluster=adata.obs["leiden"].array, label=label, before=before)
            types = None if label is None else _find_mixed_types(adata.obsm["latent"], label)
            some = choose_some(adata.n_obs)
            # The sample may lack a domain of few cells.
            if before is not None and len(np.unique(domain.codes[some])) > 1:
                by_domain = scores_by_domain(adata.obsm["latent"][some], domain[some], before[some, :N_COMPONENTS])
                values |= _log_mixing(by_domain)
                if self.folder is not None or trainer.loggers:
                    publish_figure(draw_scores(by_domain, types), "scores", self.folder, trainer, show=False)
            if "X_umap" in adata.obsm and "entropy_mixing" in values:
                values["umap_entropy_mixing"] = batch_entropy_mixing(adata.obsm["X_umap"], domain)
            if "X_umap" in adata.obsm and "silhouette" in values:
                group = adata.obs["leiden"] if label is None else pd.Series(label).astype(str)
                values["umap_silhouette"] = silhouette(adata.obsm["X_umap"], group)
        logger.info("Scores: %s", ", ".join(f"{name} {value:.3f}" for name, value in values.items()) or "none", extra=STAGE)
        result.adata.uns["scalex"]["scores"] = values
        assert all(math.isfinite(value) for value in values.values())
        for tracker in trainer.loggers:
            tracker.log_metrics({f"score/{name}": value for name, value in values.items()}, trainer.global_step)
        if self.folder is not None:
            with atomic_write(self.folder / "metrics.json") as path:
                path.write_text(json.dumps(values, indent=2) + "\n")


def _log_mixing(by_domain: pd.DataFrame) -> dict[str, float]:
    """Log how well the domains are mixed without, with and with perfect integration, and return the first and the last."""
    mean = by_domain[["inputs", "latents", "permuted"]].mul(by_domain["cells"] / by_domain["cells"].sum(), axis=0).sum()
    logger.info(
        "Entropy of the domains among neighbours: %.3f in the inputs, %.3f in the latents, %.3f with permuted domains",
        mean["inputs"], mean["latents"], mean["permuted"],
    )  # fmt: skip
    return {"entropy_mixing_inputs": float(mean["inputs"]), "entropy_mixing_permuted": float(mean["permuted"])}


def _find_mixed_types(latent: NDArray[np.float32], label: pd.Categorical) -> pd.DataFrame:
    """Return the result of `mixed_types`, and log the types whose cells lie among another type."""
    known = np.flatnonzero(~label.isna())
    some = known[choose_some(len(known))]
    table = mixed_types(latent[some], label[some])
    mixed = table[table["wrong"] >= MIN_WRONG].head(MAX_TYPES)
    if len(mixed):
        listed = ", ".join(f"{one} among {among} ({wrong:.2f})" for one, wrong, among in mixed.itertuples())
        logger.info("Types that lie among others (share of wrong neighbours, 1 is chance): %s", listed)
    return table
