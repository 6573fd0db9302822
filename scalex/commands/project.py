"""The command ``python project.py``. Functions import torch, Lightning and scanpy, which take seconds, only when they need them."""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from scalex.commands.configuration import check_complete, get_folder, holds_settings, load_config, resolve_settings, save_config
from scalex.commands.settings import check_project_settings
from scalex.commands.sweep import is_sweep
from scalex.runs.folder import COMPOSED, FINISHED, check_unused
from scalex.runs.owner import OWNER
from scalex.runs.processes import begin_run
from scalex.system.atomic_files import atomic_write
from scalex.system.devices import check_devices, choose_accelerator
from scalex.system.processes import end_with_parent, is_first, name_parent, uses_several_processes

__all__ = ["project"]

# Settings that all processes of a projection need.
OPTIONS = ("repeat", "impute", "label", "statistics", "chunk_size", "least_found")


def project(cfg: DictConfig) -> None:
    """Project cells into a reference, and write the results to a new folder."""
    end_with_parent()
    folder = get_folder(cfg, "output")
    if is_sweep():
        folder = Path(HydraConfig.get().runtime.output_dir)
    check_complete(cfg)
    name_is_given = is_sweep() or not OmegaConf.is_interpolation(cfg, "output")
    cfg.output = str(folder)
    if not (folder / OWNER).exists():
        # An occupied folder is told before the slow imports that the settings need, and again when it is claimed.
        _holds_own_run(cfg, folder)
    check_project_settings(resolve_settings(cfg))
    several = uses_several_processes(cfg.trainer)
    with begin_run(
        folder, cfg, several=several, name_is_given=name_is_given, prepare=_prepare, save=save_config, load=load_config
    ) as shared:
        if (Path(shared.output) / FINISHED).exists():
            logging.getLogger("scalex").info("Finished before: %s", shared.output)
            return
        _project(shared, Path(shared.output))


def _project(cfg: DictConfig, folder: Path) -> None:
    from scalex.projection.project import take_part
    from scalex.projection.reference import Reference
    from scalex.projection.to_folder import project_to
    from scalex.reference.adapter import Adapter
    from scalex.runs.log import log_to
    from scalex.system.overrides import format_override
    from scalex.system.program import list_leading_arguments

    settings = check_project_settings(resolve_settings(cfg))
    with log_to(folder / "log.txt" if is_first() else None):
        reference = Reference.load(cfg.reference)
        source = instantiate(settings["dataset"], _convert_="all")
        fixed = {"logger": False, "enable_checkpointing": False, "default_root_dir": str(folder)}
        check_devices(settings["trainer"])
        accelerator = choose_accelerator(settings["trainer"].get("accelerator", "auto"))
        trainer = instantiate(settings["trainer"], accelerator=accelerator, **fixed, _convert_="all")
        if trainer.world_size > 1:
            name_parent()
            # Lightning starts the other processes with the arguments of this one. They need this folder, whose default name contains the
            # time, and the settings of this run of a sweep.
            arguments = HydraConfig.get().overrides.task if is_sweep() else sys.argv[1:]
            others = [argument for argument in arguments if not argument.startswith("output=")]
            sys.argv[1:] = [*list_leading_arguments("project"), *others, format_override("output", folder)]
        if settings["adapt"] and trainer.world_size > 1:
            raise ValueError(
                "adapt=true fits the adapter in one process: use trainer=auto (or cpu, gpu). Its folder can then be given to several "
                "processes (adapter=)."
            )
        options = {name: settings[name] for name in OPTIONS}
        adapter = None if settings["adapter"] is None else Adapter.load(settings["adapter"])
        if is_first():
            project_to(
                folder, reference, source, trainer, append=settings["append"], adapt=settings["adapt"], adapter=adapter,
                fit_on=settings["fit_on"], parameters=settings, **options,
            )  # fmt: skip
            logging.getLogger("scalex").info("Results: %s", folder)
        else:
            take_part(reference, source, trainer, adapter=adapter, **options)


def _prepare(cfg: DictConfig, folder: Path) -> None:
    """Write the settings to a folder without results. A projection of the same settings that was stopped is made again."""
    path = folder / "config.yaml"
    if _holds_own_run(cfg, folder):
        return
    (folder / COMPOSED).unlink(missing_ok=True)
    with atomic_write(path) as unfinished:
        OmegaConf.save(cfg, unfinished, resolve=True)


def _holds_own_run(cfg: DictConfig, folder: Path) -> bool:
    """Return whether a folder holds a run of the same settings that goes on. Raises `FileExistsError` for results of another run."""
    if holds_settings(folder / "config.yaml", cfg, resolve=True) and (is_sweep() or not (folder / FINISHED).exists()):
        return True
    check_unused(folder)
    return False
