"""Project cells into a trained space from the command line; see python project.py --help."""

import logging
from typing import Any

import hydra
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
    from scalex.system.processes import ignore_launcher

    not_given(OmegaConf.missing_keys(cfg))
    folder = new_folder(run_folder(cfg, "output"))
    OmegaConf.save(cfg, folder / "config.yaml", resolve=True)

    from scalex.projection.reference import Reference
    from scalex.projection.to_folder import project_to
    from scalex.runs.log import logged_to

    settings: Any = OmegaConf.to_container(cfg, resolve=True)
    with ignore_launcher(), logged_to(folder / "log.txt"):
        project_to(
            folder,
            Reference.load(cfg.reference),
            instantiate(settings["dataset"], _convert_="all"),
            instantiate(settings["trainer"], logger=False, enable_checkpointing=False, default_root_dir=cfg.output, _convert_="all"),
            append=cfg.append,
            repeat=cfg.repeat,
            impute=cfg.impute,
            label=cfg.label,
            statistics=cfg.statistics,
            chunk_size=cfg.chunk_size,
            least_found=cfg.least_found,
            parameters=settings,
        )
    logging.getLogger("scalex").info("Results: %s", folder)


if __name__ == "__main__":
    main()
