"""Project cells into a trained space from the command line; see python project.py --help."""

from scalex.commands.interrupt import explain_interrupt

# The imports take long enough for a Ctrl-C.
explain_interrupt()

import hydra  # noqa: E402
from omegaconf import DictConfig  # noqa: E402

from scalex.commands.errors import exit_on_errors, run_command  # noqa: E402
from scalex.commands.project import project  # noqa: E402
from scalex.commands.sweep import move_multirun_first  # noqa: E402


@hydra.main(version_base="1.3", config_path="conf", config_name="project")
def main(cfg: DictConfig) -> None:
    """Run what the configuration says."""
    exit_on_errors(project, cfg)


if __name__ == "__main__":
    move_multirun_first()
    run_command(main, "project")
