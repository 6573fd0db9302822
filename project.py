"""Project cells into a trained space from the command line; see python project.py --help."""

import hydra
from omegaconf import DictConfig

from scalex.commands.errors import exit_on_errors
from scalex.commands.project import project


@hydra.main(version_base="1.3", config_path="conf", config_name="project")
def main(cfg: DictConfig) -> None:
    """Run what the configuration says."""
    exit_on_errors(project, cfg)


if __name__ == "__main__":
    main()
