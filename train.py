"""Integrate cells from the command line; see python train.py --help."""

import hydra
from omegaconf import DictConfig

from scalex.commands.errors import exit_on_errors
from scalex.commands.train import train


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; return the score that a sweep optimises."""
    return exit_on_errors(train, cfg)


if __name__ == "__main__":
    main()
