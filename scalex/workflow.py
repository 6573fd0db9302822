"""The engine all doors lead to: fit to cells, then embed them."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anndata import AnnData
from lightning import Trainer

from scalex.cells import CellSource
from scalex.data import ScalexDataModule
from scalex.memory import keep_freed_memory
from scalex.module import ScalexModule
from scalex.preprocess import Recipe
from scalex.reference import Reference

__all__ = ["fit", "logged_to", "stopped_at"]

logger = logging.getLogger(__name__)


def fit(
    source: CellSource,
    recipe: Recipe,
    module: ScalexModule,
    trainer: Trainer,
    *,
    chunk_size: int = 20_000,
    seed: int = 124,
    parameters: Mapping[str, Any] | None = None,
    resume_from: str | Path | None = None,
) -> AnnData:
    """Fit preprocessing and model to cells, then embed the cells.

    Parameters
    ----------
    source
        Where the cells are.
    recipe
        How they are preprocessed.
    module
        The model and the plan of its training.
    trainer
        Lightning's trainer; its callbacks export, score and draw the result, and must include `LatentExport`.
    chunk_size
        Cells embedded at a time.
    seed
        Seed of the order of training.
    parameters
        What the run was asked for; recorded in the result and in the trackers.
    resume_from
        A checkpoint written by `Checkpoint`, to go on from.

    Returns
    -------
    AnnData
        Kept cells x used features, scaled to [0, 1]; obsm["latent"] (n_cells, n_latent); `.raw` normalized expression;
        obs["domain"]; and what the callbacks add.

    Raises
    ------
    ValueError, KeyError, FileNotFoundError
        Where the cells are not as the options say.
    FloatingPointError
        If the loss is not finite.
    """
    cells = source.open()
    n_cells, n_features = len(cells.obs), len(cells.var)
    domains = cells.domain.categories
    logger.info("Cells: %s x %s features, %s domain(s): %s", *_counts(n_cells, n_features, len(domains)), _sizes(cells.domain))
    if n_cells < 2:
        raise ValueError(f"There is {n_cells} cell: a model needs more than one to learn from.")
    if len(domains) == 1:
        logger.warning("There is one domain, so there is nothing to correct: the cells are embedded as they are.")
    fitted = recipe.fit(cells)
    if len(fitted.rows) < 2:
        raise ValueError(f"{len(fitted.rows)} cell is left of {n_cells:,} after min_features: lower it, a model needs more than one.")
    kept = cells.domain[fitted.rows]
    for domain, count in kept.value_counts().items():
        if count < 2:
            logger.warning("Domain %s has %d cell(s) after filtering: its own statistics cannot be learnt.", domain, count)

    plan = module.hparams
    data = ScalexDataModule(
        cells,
        fitted,
        batch_size=plan["batch_size"],
        sampling=plan["sampling"],
        chunk_size=chunk_size,
        seed=seed,
        parameters=parameters,
    )
    module.set_reference(Reference(fitted.preprocessor, len(fitted.rows), version("scalex")))
    logger.info(
        "Model: %s features -> %d -> %d latent dimensions, %s weights, %d domains; %s",
        f"{len(fitted.preprocessor.features):,}", plan["n_hidden"], plan["n_latent"],
        f"{sum(p.numel() for p in module.parameters()):,}", len(domains),
        ", ".join(f"{k}={v}" for k, v in plan.items() if k not in ("n_hidden", "n_latent")),
    )  # fmt: skip
    for tracker in trainer.loggers:
        tracker.log_hyperparams(dict(parameters or plan))
    keep_freed_memory()
    trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True if resume_from else None)
    logger.info("Trained %s steps in %s epochs; embedding", f"{trainer.global_step:,}", f"{trainer.current_epoch:,}")
    trainer.predict(module, datamodule=data, return_predictions=False)
    assert data.embedding is not None, "the trainer needs the callback LatentExport"
    return data.embedding


def stopped_at(folder: Path) -> Path | None:
    """The checkpoint from which a run in `folder` can go on; None if it was stopped before its first."""
    last = folder / "checkpoint" / "last.ckpt"
    return last if last.exists() else None


@contextmanager
def logged_to(path: Path | None) -> Iterator[None]:
    """While this lasts, write what scalex says, down to each epoch, to a file; of Lightning, let only warnings through."""
    package, lightning = logging.getLogger("scalex"), logging.getLogger("lightning.pytorch")
    before = package.level, lightning.level
    lightning.setLevel(logging.WARNING)
    handler = logging.NullHandler() if path is None else logging.FileHandler(path)
    if path is not None:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        package.setLevel(logging.DEBUG)
    package.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch 2.13 for something under its old name, at each run.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            # Cells in memory are gathered faster than worker processes could send them.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    except BaseException as error:
        # For the file alone: on the screen, the error speaks for itself.
        package.debug("Stopped by %s: %s", type(error).__name__, error, exc_info=True)
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
        package.setLevel(before[0])
        lightning.setLevel(before[1])


def _counts(*numbers: int) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _sizes(domain: Any, most: int = 12) -> str:
    counts = domain.value_counts()
    shown = [f"{name} {count:,}" for name, count in counts.head(most).items()]
    return ", ".join(shown) + (", ..." if len(counts) > most else "")
