"""Continued training: a trained model learns new domains and reports how the old cells moved."""

from __future__ import annotations

import json
import logging
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from anndata import AnnData
from lightning import Trainer
from numpy.typing import NDArray

from scalex.cells import CellSource
from scalex.data import ScalexDataModule
from scalex.metrics import scores
from scalex.metrics.clusters import add_clusters
from scalex.model.base import Model
from scalex.model.trained_on import TrainedOn
from scalex.preprocess import FittedRecipe, Preprocessor
from scalex.projection.query import Query, open_query
from scalex.reference.finished_run import FinishedRun
from scalex.reference.input_pca import INPUT_PCA
from scalex.reference.lineage import GROWTH, write_lineage
from scalex.system.atomic_files import atomic_write
from scalex.system.chunks import chunks
from scalex.system.settings import Count, NonNegative, Positive, Seed, check_call
from scalex.training.fit import check_callbacks, train_and_embed
from scalex.training.grown_cells import GrownCells, open_expression

__all__ = ["grow"]

logger = logging.getLogger(__name__)


@check_call
def grow(
    reference: FinishedRun,
    source: CellSource,
    module: Model,
    trainer: Trainer,
    *,
    folder: Path,
    encoder_lr: Positive = 0.3,
    kl_weight: NonNegative = 0.5,
    allowed_fall: NonNegative = 0.05,
    label: str = "cell_type",
    chunk_size: Count = 20_000,
    seed: Seed = 124,
    parameters: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> AnnData:
    """Train the model of a reference further on its own cells and new ones.

    Preprocessing does not change. Each new domain gets its row of domain-specific batch norm, which starts from the statistics of its
    cells. The old cells are read from the normalized expression in the reference's folder. The result is a run folder and the next version
    of the reference, unless the scores of the old cells fall too far. The old folder does not change.

    Parameters
    ----------
    reference
        The trained model with its cells, in a folder that holds their expression.
    source
        The source of the new cells.
    module
        The model and the plan of its training, of the size of the reference's model.
    trainer
        As in `scalex.fit`.
    folder
        The run folder. Its ``growth.json`` holds how far the old cells moved, and their scores before and after.
    encoder_lr
        Learning rate of the encoder in units of the decoder's.
    kl_weight
        Weight of the KL divergence. It brings new domains, whose latents lie apart at the start, to the old ones.
    allowed_fall
        Largest fall of the old cells' total score. New clusters alone change it by a few hundredths.
    label
        Column of obs with labels, for the scores.
    chunk_size, seed, parameters, resume_from
        As in `scalex.fit`.

    Returns
    -------
    AnnData
        As from `scalex.fit`, old cells first; obs["projection"] is "reference" or "query".

    Raises
    ------
    ValueError
        If the folder holds no expression, the module has another size, `LatentExport` is not among the callbacks, or the new cells do not
        fit the model.
    """
    module.check_start(reference.module)
    check_callbacks(trainer)
    if trainer.world_size > 1:
        raise ValueError("Continued training runs in one process: use trainer=auto (or cpu, gpu) instead of trainer=ddp.")
    open_expression(reference)
    query = open_query(reference, source, chunk_size)
    cells = GrownCells.of(reference, query, _choose_rows(query, chunk_size), label)
    before = reference.trained_on.preprocessor
    after = _with_domains(before, cells, chunk_size)
    # The joined values are normalized.
    scaling_alone = replace(after, total_features=None, normalization="none", binarize=False, weight=None)
    plan = module.hparams
    plan["encoder_lr"], plan["kl_weight"] = encoder_lr, kl_weight
    data = ScalexDataModule(
        cells,
        FittedRecipe(scaling_alone, np.arange(len(cells.obs))),
        batch_size=module.minibatch_size(len(after.domains)),
        sampling=plan["sampling"],
        chunk_size=chunk_size,
        seed=seed,
        parameters=parameters,
    )
    module.set_trained_on(TrainedOn(after, len(cells.obs), version("scalex")), data)
    data.setup("fit")
    n_old = reference.cells.n_obs
    module.start_from(reference.module, data.inputs()[n_old:], data.domain[n_old:])
    logger.info(
        "Continues from %s with its %s cells and %s new ones; new domains: %s", reference.given, f"{n_old:,}", f"{len(cells.kept):,}",
        ", ".join(after.domains[len(before.domains) :]) or "none",
    )  # fmt: skip

    def write_growth(adata: AnnData) -> None:
        _write_growth(reference, adata, folder, allowed_fall, label, seed)

    return train_and_embed(module, data, trainer, parameters=parameters, resume_from=resume_from, before_outputs=write_growth)


def _choose_rows(query: Query, chunk_size: int) -> NDArray[np.int64]:
    """Return the rows of the new cells that pass the filters of the training."""
    n_least = query.transform.preprocessor.min_features
    kept = []
    for rows in chunks(query.n_cells, chunk_size):
        values = query.read(rows).values
        assert values is not None
        kept.append(rows.start + np.flatnonzero(query.transform.count_detected(values) >= n_least))
    chosen = np.concatenate(kept)
    logger.info("Keeps new cells with >= %d features (min_features): %s of %s", n_least, f"{len(chosen):,}", f"{query.n_cells:,}")
    if len(chosen) == 0:
        raise ValueError(f"No new cell has the {n_least} detected features that the reference's training asked for (min_features).")
    return chosen


def _with_domains(before: Preprocessor, cells: GrownCells, chunk_size: int) -> Preprocessor:
    """Return the preprocessor with the new domains. Cells of the old ones are preprocessed as before."""
    n_old, domain = cells.old.shape[0], np.asarray(cells.domain)
    added = [name for name in cells.query.domains if name not in before.domains and (domain[n_old:] == name).any()]
    columns = before.input_position
    largest = np.zeros((len(added), len(columns)), np.float32)
    for rows in chunks(len(cells.kept) if added else 0, chunk_size):
        place = slice(n_old + rows.start, n_old + rows.stop)
        values = cells.read(place)[:, columns]
        for row, name in zip(largest, added, strict=True):
            own = values[domain[place] == name]
            if own.shape[0]:
                np.maximum(row, own.max(0).toarray().ravel(), out=row)
    if before.scaling == "global":
        # Values above the old cells' largest are clipped, as in any projection.
        largest = np.minimum(largest, before.maximum.max(0))
    return replace(before, domains=(*before.domains, *added), maximum=np.vstack([before.maximum, largest]))


def _write_growth(reference: FinishedRun, adata: AnnData, folder: Path, allowed_fall: float, label: str, seed: int) -> None:
    """Report how the old cells moved. Where their score fell too far, the folder does not become a reference."""
    n_old = reference.cells.n_obs
    latent = np.asarray(adata.obsm["latent"][:n_old])
    moved = np.linalg.norm(latent - reference.latent, axis=1) / reference.latent_map().unit
    before, after = (_compute_scores(reference, values, label, seed) for values in (reference.latent, latent))
    fall = before["total"] - after["total"]
    accepted = bool(fall <= allowed_fall)
    numbers = {
        "n_old": n_old,
        "n_new": adata.n_obs - n_old,
        "moved": {"median": float(np.median(moved)), "quantile_0.9": float(np.quantile(moved, 0.9))},
        "moved_by_type": _compute_medians(moved, reference.cells.obs, label),
        "unit": "median distance of the reference's own cells to their nearest others",
        "scores_before": before,
        "scores_after": after,
        "allowed_fall": allowed_fall,
        "accepted": accepted,
    }
    logger.info(
        "The old cells moved by %.2f (median; 1 = %s). Their total score went from %.3f to %.3f", numbers["moved"]["median"],
        numbers["unit"], before["total"], after["total"],
    )  # fmt: skip
    if accepted:
        write_lineage(folder, reference.lineage, "trained on", adata.n_obs)
    with atomic_write(folder / GROWTH) as path:
        path.write_text(json.dumps(numbers, indent=2))
    if accepted:
        return
    logger.warning(
        "The old cells' score fell by %.3f, more than allowed (growth.allowed_fall=%g): this run does not replace the reference. "
        "Lower model.lr or growth.encoder_lr, or allow more.", fall, allowed_fall,
    )  # fmt: skip


def _compute_medians(moved: NDArray[np.float32], obs: pd.DataFrame, label: str) -> dict[str, float]:
    """Return how far the cells of each type moved (median), the most first; nothing if types are not known."""
    if label not in obs:
        return {}
    medians = pd.Series(moved, obs.index).groupby(obs[label].astype(str).where(obs[label].notna())).median()
    return {str(name): float(value) for name, value in medians.sort_values(ascending=False).items()}


def _compute_scores(reference: FinishedRun, latent: NDArray[np.float32], label: str, seed: int) -> dict[str, float]:
    """Return the scores of the old cells alone, computed in the same way before and after."""
    obs = reference.cells.obs
    cells = AnnData(obs=pd.DataFrame(index=obs.index), obsm={"latent": latent})
    add_clusters(cells, n_neighbors=30, seed=seed)
    known = pd.Categorical(obs[label]) if label in obs else None
    domain, cluster = pd.Categorical(obs["domain"]), pd.Categorical(cells.obs["leiden"])
    before = np.asarray(reference.cells.obsm[INPUT_PCA]) if INPUT_PCA in reference.cells.obsm else None
    return scores(latent, domain=domain, cluster=cluster, label=known, before=before)
