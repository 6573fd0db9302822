"""The command ``python train.py``. Functions import torch, Lightning and scanpy, which take seconds, only when they need them."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scalex.commands.configuration import (
    check_complete,
    get_folder,
    holds_settings,
    load_config,
    resolve_settings,
    save_config,
    write_config,
)
from scalex.commands.run_names import name_in_trackers
from scalex.commands.settings import check_train_settings
from scalex.commands.stored import check_stored, resolve_others
from scalex.commands.sweep import is_sweep
from scalex.runs.folder import COMPOSED, FINISHED, SEARCH, check_resume, check_unused, find_checkpoint
from scalex.runs.owner import OWNER
from scalex.runs.processes import begin_run, resume_run
from scalex.system.devices import check_devices, choose_accelerator
from scalex.system.processes import end_with_parent, is_first, name_parent, read_launch, uses_several_processes

if TYPE_CHECKING:
    from anndata import AnnData
    from lightning import Trainer

__all__ = ["read_scores", "run", "train"]

# Settings from which the objects of a run are created, except the trainer.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")


def train(cfg: DictConfig) -> float | None:
    """Train as the command line says, and return the score. For a run of a sweep, also update the table of all runs."""
    end_with_parent()
    folder = get_folder(cfg, "output" if cfg.resume is None else "resume")
    if is_sweep() and cfg.resume is None:
        folder = Path(HydraConfig.get().runtime.output_dir)
        cfg.output = str(folder)
    score = run(cfg, HydraConfig.get().overrides.task)
    # Hydra, or a search, writes these files to the folder of a sweep.
    if is_sweep() or any((folder.parent / name).exists() for name in ("multirun.yaml", SEARCH)):
        from scalex.runs.sweep_page import write_sweep

        write_sweep(folder.parent, _list_scores(folder.parent / SEARCH, cfg))
    return score


def _list_scores(path: Path, cfg: DictConfig) -> list[str]:
    """Return the scores that the page of a sweep shows: those of the search whose settings a file holds, or else the one of the runs."""
    of_search = load_config(path) if path.exists() else cfg
    return list(OmegaConf.select(of_search, "tune.scores") or [of_search.score])


def run(cfg: DictConfig, overrides: Sequence[str] = (), *, of_sweep: bool | None = None) -> float | None:
    """Begin or resume a run, and return its score.

    Parameters
    ----------
    cfg
        All settings.
    overrides
        Settings on the command line.
    of_sweep
        Whether it is one of several runs of this process, which trains in one process and is skipped if it is finished. None: whether
        it is one of ``--multirun``.
    """
    of_sweep = is_sweep() if of_sweep is None else of_sweep
    if cfg.resume is not None:
        check_resume(overrides)
        return _resume(get_folder(cfg, "resume"), cfg.allow, of_sweep=of_sweep)
    folder = get_folder(cfg, "output")
    check_complete(cfg)
    resolve_others(cfg)
    name_is_given = not OmegaConf.is_interpolation(cfg, "output")
    cfg.output = str(folder)
    name_in_trackers(cfg, folder, overrides, of_sweep=of_sweep)
    if not (folder / OWNER).exists():
        # An occupied folder is told before the slow imports that the settings need, and again when it is claimed.
        _holds_own_run(cfg, folder, of_sweep=of_sweep)
    check_train_settings(resolve_settings(cfg), overrides)
    several = uses_several_processes(cfg.trainer)
    with begin_run(
        folder, cfg, several=several, name_is_given=name_is_given, prepare=partial(_prepare, of_sweep=of_sweep), save=save_config,
        load=load_config,
    ) as shared:  # fmt: skip
        return _fit(shared, Path(shared.output), of_sweep=of_sweep)


def _resume(folder: Path, allowed: Sequence[str], *, of_sweep: bool) -> float | None:
    if not (folder / COMPOSED).exists():
        raise FileNotFoundError(f"Nothing to resume in {folder}: it holds no run.")
    several = uses_several_processes(load_config(folder / COMPOSED).trainer)
    with resume_run(folder, several=several):
        cfg = load_config(folder / COMPOSED)
        cfg.output = str(folder)
        launch = read_launch()
        # Processes that Lightning starts belong to one that has checked the settings.
        if launch.first or launch.name != "lightning":
            check_stored(cfg, folder, allowed)
        return _fit(cfg, folder, of_sweep=of_sweep)


def _prepare(cfg: DictConfig, folder: Path, *, of_sweep: bool) -> None:
    """Write the settings to a folder without results. A run of the same settings that was stopped is resumed."""
    if not _holds_own_run(cfg, folder, of_sweep=of_sweep):
        write_config(cfg, folder)


def _holds_own_run(cfg: DictConfig, folder: Path, *, of_sweep: bool) -> bool:
    """Return whether a folder holds a run of the same settings that goes on. Raises `FileExistsError` for results of another run."""
    if holds_settings(folder / COMPOSED, cfg) and (of_sweep or not (folder / FINISHED).exists()):
        return True
    check_unused(folder)
    return False


def _fit(cfg: DictConfig, folder: Path, *, of_sweep: bool) -> float | None:
    """Train in an existing folder, embed the cells, and return the score."""
    from scalex.runs.log import log_to

    cfg.output = str(folder)
    if (folder / FINISHED).exists():
        logging.getLogger("scalex").info("Finished before: %s", folder)
        return _get_score(read_scores(folder), cfg.score, folder)
    settings = check_train_settings(resolve_settings(cfg))
    with log_to(folder / "log.txt" if is_first() else None), _end_wandb():
        parts = instantiate({name: settings[name] for name in PARTS}, _convert_="all")
        adata = _train_and_embed(parts, _make_trainer(settings, parts, folder, of_sweep=of_sweep), settings, folder)
        if is_first():
            logging.getLogger("scalex").info("Results: %s", folder)
    return _get_score(adata.uns["scalex"].get("scores", {}), cfg.score, folder)


@contextmanager
def _end_wandb() -> Iterator[None]:
    """Finally end the run of Weights & Biases: the next run of a sweep would go on in it."""
    code = 1
    try:
        yield
        code = 0
    finally:
        if "wandb" in sys.modules:
            import wandb

            wandb.finish(code)


def _make_trainer(settings: dict[str, Any], parts: dict[str, Any], folder: Path, *, of_sweep: bool) -> Trainer:
    """Return Lightning's trainer. The processes that it starts resume this run."""
    from scalex.system.overrides import format_override
    from scalex.system.program import list_leading_arguments
    from scalex.training.length import trainer_limits

    options = settings["trainer"]
    check_devices(options)
    trainer: Trainer = instantiate(
        options | trainer_limits(options["max_steps"], options["max_epochs"]),
        accelerator=choose_accelerator(options.get("accelerator", "auto")),
        callbacks=list(parts["callbacks"].values()),
        logger=[parts["epoch_table"], *parts["logger"].values()],
        default_root_dir=str(folder),
        enable_checkpointing="checkpoint" in parts["callbacks"],
        _convert_="all",
    )
    if trainer.world_size > 1:
        if of_sweep and read_launch().name == "lightning":
            raise ValueError(
                f"Each run of a sweep trains in one process, but the trainer has {trainer.world_size}. Use trainer=auto (or cpu, gpu), "
                "with launch=local for several runs at a time. Or start each run with trainer=ddp separately, without -m."
            )
        name_parent()
        # Lightning starts the other processes with the arguments of this one.
        sys.argv[1:] = [*list_leading_arguments("train"), format_override("resume", folder)]
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


def _get_score(scores: dict[str, float], name: str, folder: Path) -> float | None:
    """Return the score that a sweep optimises, or None without the callback `Scores`."""
    from scalex.callbacks.scores import SCORE_NAMES

    if scores and name not in scores:
        known = [one for one in scores if one in SCORE_NAMES]
        raise ValueError(f"score={name} cannot be computed for these cells. Available: {', '.join(known)}. All results are in {folder}.")
    return scores.get(name)


def read_scores(folder: Path) -> dict[str, float]:
    """Return the scores of a finished run; none without the callback `Scores`."""
    path = folder / "metrics.json"
    scores: dict[str, float] = json.loads(path.read_text()) if path.exists() else {}
    return scores
