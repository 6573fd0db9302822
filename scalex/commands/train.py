"""What ``python train.py`` does. Torch, Lightning and scanpy take seconds to import: they are imported where a run needs them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig

from scalex.commands.configuration import check_complete, load_config, plain_settings, run_folder, save_config, write_config
from scalex.commands.errors import is_sweep
from scalex.runs.folder import COMPOSED, check_resume, find_checkpoint, new_folder
from scalex.runs.processes import begin_run, resume_run
from scalex.system.processes import is_first, read_launch, uses_several_processes

if TYPE_CHECKING:
    from anndata import AnnData
    from lightning import Trainer

__all__ = ["run", "train"]

# What the run is made of, besides its trainer.
PARTS = ("dataset", "preprocess", "model", "callbacks", "epoch_table", "logger")


def train(cfg: DictConfig) -> float | None:
    """Run what was typed; in a sweep, in a folder of its own, and write the table of all runs."""
    if is_sweep():
        cfg.output = HydraConfig.get().runtime.output_dir
    score = run(cfg, HydraConfig.get().overrides.task)
    if is_sweep():
        from scalex.runs.sweep_table import write_sweep_table

        write_sweep_table(Path(cfg.output).parent)
    return score


def run(cfg: DictConfig, overrides: Sequence[str] = ()) -> float | None:
    """Begin a run, or resume one, and return its score.

    Parameters
    ----------
    cfg
        All settings.
    overrides
        Those that were typed.
    """
    if cfg.resume is not None:
        folder = run_folder(cfg, "resume")
        check_resume(overrides)
        cfg = load_config(new_folder(folder, resume=True) / COMPOSED)
        with resume_run(folder, several=uses_several_processes(cfg.trainer)):
            return _fit(cfg, folder)
    folder = run_folder(cfg, "output")
    check_complete(cfg)
    several = uses_several_processes(cfg.trainer)
    with begin_run(folder, cfg, several=several, write=write_config, save=save_config, load=load_config) as shared:
        return _fit(shared, folder)


def _fit(cfg: DictConfig, folder: Path) -> float | None:
    """Train in a folder that is made, and embed the cells; the score."""
    from scalex.callbacks.scores import NAMES
    from scalex.runs.log import log_to

    cfg.output = str(folder)
    if cfg.score not in NAMES:
        raise ValueError(f"score={cfg.score}: allowed are {', '.join(NAMES)}.")
    settings = plain_settings(cfg)
    with log_to(folder / "log.txt" if is_first() else None):
        parts = instantiate({name: settings[name] for name in PARTS}, _convert_="all")
        adata = _trained(parts, _trainer(settings, parts, folder), settings, folder)
        if is_first():
            logging.getLogger("scalex").info("Results: %s", folder)
    return _score(adata, cfg.score, folder)


def _trainer(settings: dict[str, Any], parts: dict[str, Any], folder: Path) -> Trainer:
    """Lightning's trainer; the processes that it starts resume this run."""
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
                f"Each run of a sweep trains in one process, and the trainer asks for {trainer.world_size}. Use trainer=auto (or cpu, "
                "gpu), with launch=local for several runs at once; or start each run of trainer=ddp by itself, without -m."
            )
        # Lightning starts the other processes with the arguments of this one.
        sys.argv[1:] = [format_override("resume", folder)]
    return trainer


def _trained(parts: dict[str, Any], trainer: Trainer, settings: dict[str, Any], folder: Path) -> AnnData:
    """The embedded cells, of a new model or of one that goes on from a reference."""
    from scalex.training.fit import fit

    task: dict[str, Any] = {
        "chunk_size": settings["chunk_size"],
        "seed": settings["seed"],
        "parameters": settings,
        "resume_from": find_checkpoint(folder),
    }
    if settings["reference"] is None:
        return fit(parts["dataset"], parts["preprocess"], parts["model"], trainer, **task)
    from scalex.projection.reference import Reference
    from scalex.training.growth import grow

    reference = Reference.load(settings["reference"])
    return grow(reference, parts["dataset"], parts["model"], trainer, folder=folder, **settings["growth"], **task)


def _score(adata: AnnData, name: str, folder: Path) -> float | None:
    """The score that a sweep optimises; None where no scores were asked for."""
    scores: dict[str, float] = adata.uns["scalex"].get("scores", {})
    if scores and name not in scores:
        raise ValueError(f"score={name} cannot be computed for these cells; there are: {', '.join(scores)}. All results are in {folder}.")
    return scores.get(name)
