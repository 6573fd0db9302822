"""Continued training: a trained model learns new domains beside the old ones, and says what that did to the old cells."""

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
from scalex.reference.lineage import GROWTH, write_lineage
from scalex.system.atomic_files import atomic_write
from scalex.system.chunks import chunks
from scalex.training.fit import check_callbacks, train_and_embed
from scalex.training.grown_cells import GrownCells, open_expression

__all__ = ["grow"]

logger = logging.getLogger(__name__)


def grow(
    reference: FinishedRun,
    source: CellSource,
    module: Model,
    trainer: Trainer,
    *,
    folder: Path,
    encoder_lr: float = 0.1,
    allowed_fall: float = 0.05,
    label: str = "cell_type",
    chunk_size: int = 20_000,
    seed: int = 124,
    parameters: dict[str, Any] | None = None,
    resume_from: Path | None = None,
) -> AnnData:
    """Go on training a reference's model on its own cells and new ones together.

    Preprocessing stays as it is. The decoder gets a row of domain-specific batch norm for each new domain, which starts from the
    statistics of that domain's cells. The old cells are replayed from the normalized expression in the reference's folder. The result is
    a run folder like any other, and the next version of the reference, unless the old cells' scores fall too far. The old folder is
    never changed.

    Parameters
    ----------
    reference
        The trained model with its cells, from a folder that holds their expression.
    source
        Where the new cells are.
    module
        The plan of the training; with as many latent dimensions and hidden units as the reference.
    trainer
        As in `scalex.fit`.
    folder
        The run folder: ``growth.json`` says how far the old cells moved and their scores before and after.
    encoder_lr
        Learning rate of the encoder, as a share of that of the decoder.
    allowed_fall
        Most that the total score of the old cells may fall; clusters alone move it by a few hundredths.
    label
        Column of obs with known cell types, for the scores.
    chunk_size, seed, parameters, resume_from
        As in `scalex.fit`.

    Returns
    -------
    AnnData
        As from `scalex.fit`, old cells first; obs["projection"] says which are which ("reference", "query").

    Raises
    ------
    ValueError
        If the folder holds no expression, the module is of another size, `LatentExport` is not among the callbacks, or the new cells
        do not fit the model.
    """
    module.check_start(reference.module)
    check_callbacks(trainer)
    if trainer.world_size > 1:
        raise ValueError("A reference goes on training in one process: use trainer=auto (or cpu, gpu) instead of trainer=ddp.")
    query = open_query(reference, source, chunk_size)
    open_expression(reference)
    cells = GrownCells.of(reference, query, _choose_rows(query, chunk_size), label)
    before = reference.trained_on.preprocessor
    after = _with_domains(before, cells, chunk_size)
    # The joined values are normalized already.
    as_they_are = replace(after, total_features=None, normalization="none", binarize=False, weight=None)
    plan = module.hparams
    plan["encoder_lr"] = encoder_lr
    data = ScalexDataModule(
        cells,
        FittedRecipe(as_they_are, np.arange(len(cells.obs))),
        batch_size=plan["batch_size"],
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
        "Goes on from %s: %s cells, and %s new ones; new domains: %s", reference.folder, f"{n_old:,}", f"{len(cells.kept):,}",
        ", ".join(after.domains[len(before.domains) :]) or "none",
    )  # fmt: skip

    def judge(adata: AnnData) -> None:
        _judge(reference, adata, folder, allowed_fall, label, seed)

    return train_and_embed(module, data, trainer, parameters=parameters, resume_from=resume_from, judge=judge)


def _choose_rows(query: Query, chunk_size: int) -> NDArray[np.int64]:
    """Rows of the new cells that the training filters keep."""
    least = query.transform.preprocessor.min_features
    kept = []
    for rows in chunks(query.n_cells, chunk_size):
        values = query.read(rows).values
        assert values is not None
        kept.append(rows.start + np.flatnonzero(query.transform.count_detected(values) >= least))
    found = np.concatenate(kept)
    logger.info("Keeps new cells with >= %d features (min_features): %s of %s", least, f"{len(found):,}", f"{query.n_cells:,}")
    if len(found) == 0:
        raise ValueError(f"No new cell has the {least} detected features that the training of the reference asked for (min_features).")
    return found


def _with_domains(before: Preprocessor, cells: GrownCells, chunk_size: int) -> Preprocessor:
    """The preprocessor that knows the new domains too; what it does to cells of the old ones stays the same."""
    n_old, domain = cells.old.shape[0], np.asarray(cells.domain)
    added = [name for name in cells.query.domains if name not in before.domains and (domain[n_old:] == name).any()]
    columns = before.kept_features.get_indexer(before.features)
    largest = np.zeros((len(added), len(columns)), np.float32)
    for rows in chunks(len(cells.kept) if added else 0, chunk_size):
        place = slice(n_old + rows.start, n_old + rows.stop)
        values = cells.read(place)[:, columns]
        for row, name in zip(largest, added, strict=True):
            own = values[domain[place] == name]
            if own.shape[0]:
                np.maximum(row, own.max(0).toarray().ravel(), out=row)
    if before.scaling == "global":
        # Values above the largest of the old cells are clipped, as at any projection.
        largest = np.minimum(largest, before.maximum.max(0))
    return replace(before, domains=(*before.domains, *added), maximum=np.vstack([before.maximum, largest]))


def _judge(reference: FinishedRun, adata: AnnData, folder: Path, allowed_fall: float, label: str, seed: int) -> None:
    """Report what the training did to the old cells; where it did too much, see that the folder is no reference."""
    n_old = reference.cells.n_obs
    now = np.asarray(adata.obsm["latent"][:n_old])
    moved = np.linalg.norm(now - reference.latent, axis=1) / reference.latent_map().unit
    was, scored = _scores(reference, reference.latent, label, seed), _scores(reference, now, label, seed)
    fall = was["total"] - scored["total"]
    accepted = bool(fall <= allowed_fall)
    numbers = {
        "n_old": n_old,
        "n_new": adata.n_obs - n_old,
        "moved": {"median": float(np.median(moved)), "quantile_0.9": float(np.quantile(moved, 0.9))},
        "unit": "median distance of the reference's own cells to their nearest others",
        "scores_before": was,
        "scores_after": scored,
        "allowed_fall": allowed_fall,
        "accepted": accepted,
    }
    logger.info(
        "The old cells moved by %.2f (median; 1 = %s); their total score was %.3f and is %.3f", numbers["moved"]["median"],
        numbers["unit"], was["total"], scored["total"],
    )  # fmt: skip
    if accepted:
        write_lineage(folder, reference.lineage, "trained on", adata.n_obs)
    _write_growth(folder, numbers)
    if accepted:
        return
    logger.warning(
        "The old cells' score fell by %.3f, more than allowed (growth.allowed_fall=%g): this run does not replace the reference. "
        "Lower model.lr or growth.encoder_lr, or allow more.", fall, allowed_fall,
    )  # fmt: skip


def _write_growth(folder: Path, numbers: dict[str, Any]) -> None:
    with atomic_write(folder / GROWTH) as path:
        path.write_text(json.dumps(numbers, indent=2))


def _scores(reference: FinishedRun, latent: NDArray[np.float32], label: str, seed: int) -> dict[str, float]:
    """Scores of the old cells alone, by the same means before and after."""
    obs = reference.cells.obs
    cells = AnnData(obs=pd.DataFrame(index=obs.index), obsm={"latent": latent})
    add_clusters(cells, n_neighbors=30, seed=seed)
    known = pd.Categorical(obs[label]) if label in obs else None
    return scores(latent, domain=pd.Categorical(obs["domain"]), cluster=pd.Categorical(cells.obs["leiden"]), label=known)
