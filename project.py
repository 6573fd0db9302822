"""Project cells into a trained space from the command line; see python project.py --help."""

import logging
import sys
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from train import explained, run_folder


@hydra.main(version_base="1.3", config_path="conf", config_name="project")
def main(cfg: DictConfig) -> None:
    """Run what the configuration says."""
    explained(run, cfg)


def run(cfg: DictConfig) -> None:
    """One projection."""
    from scalex.runs.folder import new_folder, not_given
    from scalex.system.processes import alone, is_first, trains_with_others

    not_given(OmegaConf.missing_keys(cfg))
    with nullcontext() if trains_with_others(cfg.trainer) else alone():
        folder = run_folder(cfg, "output")
        if is_first():
            OmegaConf.save(cfg, new_folder(folder) / "config.yaml", resolve=True)
        project(cfg, folder)


def project(cfg: DictConfig, folder: Path) -> None:
    """Project into a folder that is made, if this is the first process; the others embed their share."""
    from scalex.projection.project import take_part
    from scalex.projection.reference import Reference
    from scalex.projection.to_folder import project_to
    from scalex.runs.log import logged_to
    from scalex.system.processes import is_first

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    options = {name: settings[name] for name in ("repeat", "impute", "label", "statistics", "chunk_size", "least_found")}
    with logged_to(folder / "log.txt" if is_first() else None):
        reference = Reference.load(cfg.reference)
        source = instantiate(settings["dataset"], _convert_="all")
        trainer = instantiate(settings["trainer"], logger=False, enable_checkpointing=False, default_root_dir=cfg.output, _convert_="all")
        if HydraConfig.get().mode == RunMode.MULTIRUN:
            # The other processes, which Lightning starts with the arguments of this one, take part in this projection alone.
            sys.argv[1:] = HydraConfig.get().overrides.task
        if is_first():
            project_to(folder, reference, source, trainer, append=cfg.append, parameters=settings, **options)
            logging.getLogger("scalex").info("Results: %s", folder)
        else:
            take_part(reference, source, trainer, **options)


if __name__ == "__main__":
    main()
