"""The command ``python train.py``. Functions import torch, Lightning and scanpy, which take seconds, only when they need them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from scalex.commands.configuration import check_complete, get_folder, load_config, resolve_settings, save_config, write_config
from scalex.commands.errors import is_sweep
from scalex.runs.folder import COMPOSED, check_resume, find_checkpoint, new_folder
from scalex.runs.processes import begin_run, resume_run
from scalex.system.processes import is_first, read_launch, uses_several_processes

if TYPE_CHECKING:
    from anndata import AnnData
    from lightning import Trainer

__all__ = ["run", "train"]

# Settings from which the objects of a run are created, except the trainer.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")


def train(cfg: DictConfig) -> float | None:
    """Train as the command line says, and return the score. In a sweep, also update the table of all runs."""
    if is_sweep():
        cfg.output = HydraConfig.get().runtime.output_dir
    score = run(cfg, HydraConfig.get().overrides.task)
    if is_sweep():
        from scalex.runs.sweep_table import write_sweep_table

        write_sweep_table(Path(cfg.output).parent)
    return score


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> float | None:
    """Begin or resume a run, and return its score.

    Parameters
    ----------
    cfg
        All settings.
    overrides
        Settings on the command line.
    """
    if cfg.resume is not None:
        folder = get_folder(cfg, "resume")
        check_resume(overrides)
        cfg = load_config(new_folder(folder, resume=True) / COMPOSED)
        with resume_run(folder, several=uses_several_processes(cfg.trainer)):
            return _fit(cfg, folder)
    folder = get_folder(cfg, "output")
    check_complete(cfg)
    several = uses_several_processes(cfg.trainer)
    with begin_run(folder, cfg, several=several, write=write_config, save=save_config, load=load_config) as shared:
        return _fit(shared, folder)


def _fit(cfg: DictConfig, folder: Path) -> float | None:
    """Train in an existing folder, embed the cells, and return the score."""
    from scalex.callbacks.scores import SCORE_NAMES
    from scalex.runs.log import log_to

    cfg.output = str(folder)
    if cfg.score not in SCORE_NAMES:
        raise ValueError(f"score={cfg.score}: allowed are {', '.join(SCORE_NAMES)}.")
    settings = resolve_settings(cfg)
    with log_to(folder / "log.txt" if is_first() else None):
        parts = instantiate({name: settings[name] for name in PARTS}, _convert_="all")
        adata = _train_and_embed(parts, _make_trainer(settings, parts, folder), settings, folder)
        if is_first():
            logging.getLogger("scalex").info("Results: %s", folder)
    return _get_score(adata, cfg.score, folder)


def _make_trainer(settings: dict[str, Any], parts: dict[str, Any], folder: Path) -> Trainer:
    """Return Lightning's trainer. The processes that it starts resume this run."""
    from scalex.system.overrides import format_override

    trainer: Trainer = instantiate(
        settings["trainer"],
        callbacks=list(parts["callbacks"].values()),
        logger=[parts["epoch_table"], *parts["logger"].values()],
        default_root_dir=str(folder),
        enable_checkpointing="checkpoint" in parts["callbacks"],
        _convert_="all",
    )
    if trainer.world_size > 1:
        if is_sweep() and read_launch().name == "lightning":
            raise ValueError(
                f"Each run of a sweep trains in one process, but the trainer has {trainer.world_size}. Use trainer=auto (or cpu, gpu), "
                "with launch=local for several runs at a time. Or start each run with trainer=ddp separately, without -m."
            )
        # Lightning starts the other processes with the arguments of this one.
        sys.argv[1:] = [format_override("resume", folder)]
    return trainer


def _train_and_embed(parts: dict[str, Any], trainer: Trainer, settings: dict[str, Any], folder: Path) -> AnnData:
    """Train a new model or the model of a reference, and return the embedded cells."""
    from scalex.training.fit import fit

    options: dict[str, Any] = {
        "chunk_size": settings["chunk_size"],
        "seed": settings["seed"],
        "parameters": settings,
        "resume_from": find_checkpoint(folder),
    }
    if settings["reference"] is None:
        return fit(parts["dataset"], parts["preprocess"], parts["model"], trainer, **options)
    from scalex.projection.reference import Reference
    from scalex.training.growth import grow

    reference = Reference.load(settings["reference"])
    return grow(reference, parts["dataset"], parts["model"], trainer, folder=folder, **settings["growth"], **options)


def _get_score(adata: AnnData, name: str, folder: Path) -> float | None:
    """Return the score that a sweep optimises, or None without the callback `Scores`."""
    scores: dict[str, float] = adata.uns["scalex"].get("scores", {})
    if scores and name not in scores:
        raise ValueError(f"score={name} cannot be computed for these cells. Available: {', '.join(scores)}. All results are in {folder}.")
    return scores.get(name)
