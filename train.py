"""Integrate cells from the command line; see python train.py --help."""

from scalex.commands.interrupt import explain_interrupt

# The imports take long enough for a Ctrl-C.
explain_interrupt()

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from scalex.commands.errors import exit_on_errors, run_command  # noqa: E402
from scalex.commands.sweep import move_multirun_first  # noqa: E402
from scalex.commands.train import train  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="train")
def main(cfg: DictConfig) -> float | None:
    """Run what the configuration says; return the score that a sweep optimises."""
    return exit_on_errors(train, cfg)


if __name__ == "__main__":
    move_multirun_first()
    run_command(main, "train")
