"""Training on cells and embedding them, for the command and the notebook alike."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

from anndata import AnnData
from lightning import Callback, Trainer
from lightning.pytorch.utilities import rank_zero_only
from torch.distributed import DistBackendError

from scalex.callbacks.latent_export import LatentExport
from scalex.callbacks.result import Output
from scalex.cells import AnnDataSource, Cells, CellSource
from scalex.data import ScalexDataModule
from scalex.model.base import Model
from scalex.model.trained_on import TrainedOn
from scalex.preprocess import FittedRecipe, Recipe
from scalex.runs.trackers import log_results, log_settings
from scalex.system.memory import keep_freed_memory, return_freed_memory
from scalex.system.overrides import format_for_shell
from scalex.system.processes import ignore_launcher, is_first, make_once, wait_for
from scalex.system.settings import Count, Seed, check_call
from scalex.system.stages import STAGE
from scalex.training.forecast import log_forecast
from scalex.training.input_cache import InputCache
from scalex.training.length import limit_steps

__all__ = ["check_callbacks", "fit", "train_and_embed"]

logger = logging.getLogger(__name__)


@check_call
def fit(
    source: CellSource,
    recipe: Recipe,
    module: Model,
    trainer: Trainer,
    *,
    chunk_size: Count = 20_000,
    seed: Seed = 124,
    parameters: Mapping[str, Any] | None = None,
    resume_from: str | Path | None = None,
) -> AnnData:
    """Fit preprocessing and model to cells, and embed the cells.

    Parameters
    ----------
    source
        The source of the cells.
    recipe
        The options of their preprocessing.
    module
        The model and the plan of its training.
    trainer
        Lightning's trainer. Its callbacks export, score and plot the result. They must include `LatentExport`.
    chunk_size
        Cells embedded at a time.
    seed
        Seed of the order of the cells.
    parameters
        Settings of the run, stored in the result and sent to the trackers.
    resume_from
        Checkpoint of `Checkpoint` from which training goes on.

    Returns
    -------
    AnnData
        Kept cells x input features, scaled to [0, 1]; obsm["latent"] (n_cells, n_latent); `.raw`, normalized expression; obs["domain"]; and
        the results of the callbacks.

    Raises
    ------
    ValueError, KeyError, FileNotFoundError
        If `LatentExport` is not among the callbacks, several processes would compile the step, or the cells are not as the options say.
    FloatingPointError
        If the loss is not finite.
    """
    check_callbacks(trainer)
    if trainer.world_size > 1 and module.hparams.get("compile_step"):
        # In each step, several processes exchange what only they know.
        raise ValueError(f"model.compile_step=true is for a training by one process, and there are {trainer.world_size}: leave it out.")
    # A launcher may have started many processes, each with its own run and a trainer of one device.
    with ignore_launcher() if trainer.world_size == 1 else nullcontext():
        rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
        return _fit(source, recipe, module, trainer, chunk_size=chunk_size, seed=seed, parameters=parameters, resume_from=resume_from)


def _fit(
    source: CellSource,
    recipe: Recipe,
    module: Model,
    trainer: Trainer,
    *,
    chunk_size: int,
    seed: int,
    parameters: Mapping[str, Any] | None,
    resume_from: str | Path | None,
) -> AnnData:
    cells = source.open()
    n_cells, n_features = len(cells.domain), len(cells.var)
    domains = cells.domain.categories
    counts = _counts(n_cells, n_features, len(domains))
    logger.info("Cells: %s x %s features, %s domain(s): %s", *counts, _sizes(cells.domain), extra=STAGE)
    if n_cells < 2:
        raise ValueError(f"There is {n_cells} cell: training needs more than one.")
    if len(domains) == 1:
        logger.warning(
            "There is one domain, so there are no differences between domains to remove. If there are more, name their column with "
            "dataset.batch_key= (SCALEX: batch_name)."
        )
    cache = None
    if cells.cache is not None and cells.identity is not None:
        cache = InputCache(cells.cache, f"{cells.identity}\n{recipe.identity()}")

    def fit_recipe() -> FittedRecipe:
        fitted = (None if cache is None else cache.load_fitted()) or recipe.fit(cells)
        _report_counts(source, fitted)
        return fitted

    # One process fits the recipe and writes the result for the others.
    shared = Path(trainer.default_root_dir) / ".fitted.pt"
    several = trainer.world_size > 1
    with make_once(shared, fit_recipe, FittedRecipe.save, FittedRecipe.load) if several else nullcontext(fit_recipe()) as fitted:
        data = _make_data(cells, fitted, module, chunk_size=chunk_size, seed=seed, parameters=parameters)
        if cache is not None:
            if not is_first():
                wait_for(cache.path)
            elif not cache.path.exists():
                cache.write(data)
            logger.info("Reads the model's inputs from the cache %s", cache.path)
            data.read_inputs_from(cache.open_inputs())
        module.set_trained_on(TrainedOn(fitted.preprocessor, len(fitted.rows), version("scalex")), data)
        return train_and_embed(module, data, trainer, parameters=parameters, resume_from=resume_from)


def _report_counts(source: CellSource, fitted: FittedRecipe) -> None:
    """Name the counts that the source holds besides the fractional values that are used as counts."""
    used = fitted.preprocessor
    if used.fractional and used.normalization != "none" and isinstance(source, AnnDataSource) and (found := source.find_counts()):
        logger.warning(
            "Whole numbers, as counts are, are in %s. To use them: dataset.layer=%s (SCALEX: counts_layer=%r)",
            " and ".join(found), found[0], found[0],
        )  # fmt: skip


def _make_data(cells: Cells, fitted: FittedRecipe, module: Model, **options: Any) -> ScalexDataModule:
    """Make the data module of the kept cells. There must be at least two."""
    if len(fitted.rows) < 2:
        n_cells = len(cells.domain)
        raise ValueError(f"{len(fitted.rows)} cell is left of {n_cells:,} after min_features: training needs more than one, so lower it.")
    kept = cells.domain[fitted.rows]
    for domain, count in kept.value_counts().items():
        if count < 2:
            logger.warning("Domain %s has %d cell(s) after filtering: its statistics cannot be learned.", domain, count)
    batch_size = module.minibatch_size(len(fitted.preprocessor.domains))
    return ScalexDataModule(cells, fitted, batch_size=batch_size, sampling=module.hparams["sampling"], **options)


def check_callbacks(trainer: Trainer) -> LatentExport:
    """Return the callback that exports the latents.

    Raises
    ------
    ValueError
        If there is none.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    export = next((callback for callback in callbacks if isinstance(callback, LatentExport)), None)
    if export is None:
        names = ", ".join(type(callback).__name__ for callback in callbacks) or "none"
        raise ValueError(
            f"The trainer has no LatentExport, which exports the latents. Its callbacks: {names}. Add it to them; on the "
            "command line: callbacks=[latent_export,...]."
        )
    return export


def train_and_embed(
    module: Model,
    data: ScalexDataModule,
    trainer: Trainer,
    *,
    parameters: Mapping[str, Any] | None = None,
    resume_from: str | Path | None = None,
    before_outputs: Callable[[AnnData], None] | None = None,
) -> AnnData:
    """Train a module that knows what it is trained on, and embed the cells; the other parameters are those of `fit`.

    `before_outputs` is called with the embedded cells before outputs are made of them, and before they are written: a folder with
    ``adata.h5ad`` holds a finished run.
    """
    plan, export = module.hparams, check_callbacks(trainer)
    export.check(data)
    outputs = [callback for callback in trainer.callbacks if isinstance(callback, Output)]  # type: ignore[attr-defined]
    for output in outputs:
        output.check(data)
    limit_steps(trainer, module, len(data.rows))
    logger.info("Model: %s", module.describe())
    max_epochs = trainer.max_epochs or -1
    logger.info("Trains %s steps%s", f"{trainer.max_steps:,}", f", or {max_epochs:,} epochs if these are fewer" if max_epochs > 0 else "")
    if data.sizes is not None:
        log_forecast(module, data, trainer.strategy.root_device)
    folder = None if export.path is None else export.path.parent
    log_settings(trainer.loggers, parameters or plan, folder)
    if data.in_memory:
        keep_freed_memory()
    else:
        # Each reading thread would keep the memory that it freed, 4 GB for a million cells.
        return_freed_memory()
    with _explain_lost_process(trainer):
        trainer.fit(module, datamodule=data, ckpt_path=resume_from, weights_only=True if resume_from else None)
        logger.info("Trained %s steps in %s epochs; embedding", f"{trainer.global_step:,}", f"{trainer.current_epoch:,}", extra=STAGE)
        with export.embed(module, data, trainer) as result:
            if trainer.is_global_zero:
                if before_outputs is not None:
                    before_outputs(result.adata)
                for output in outputs:
                    output.on_result(result, trainer)
    scores = result.adata.uns["scalex"].get("scores", {})
    log_results(trainer.loggers, parameters or plan, scores, folder)
    return result.adata


@contextmanager
def _explain_lost_process(trainer: Trainer) -> Iterator[None]:
    """Explain the error that a lost process causes in the others.

    Raises
    ------
    ConnectionError
        If another process has stopped.
    """
    try:
        yield
    except RuntimeError as error:
        # gloo raises no error type of its own.
        if trainer.world_size == 1 or not (isinstance(error, DistBackendError) or "gloo" in str(error)):
            raise
        raise ConnectionError(
            f"Another of the {trainer.world_size} processes has stopped. Its message, if any, is above. Resume "
            f"from the last checkpoint with {format_for_shell('resume', trainer.default_root_dir)}"
        ) from error


def _counts(*numbers: int) -> list[str]:
    return [f"{number:,}" for number in numbers]


def _sizes(domain: Any, most: int = 12) -> str:
    counts = domain.value_counts()
    shown = [f"{name} {count:,}" for name, count in counts.head(most).items()]
    return ", ".join(shown) + (", ..." if len(counts) > most else "")
