"""Hydra's entry points of the commands."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

import hydra
from omegaconf import DictConfig

from scalex import __version__
from scalex.commands.errors import exit_on_errors, run_command
from scalex.commands.project import project
from scalex.commands.search_arguments import choose_space
from scalex.commands.settings_table import Command
from scalex.commands.sweep import is_sweep, move_multirun_first
from scalex.commands.train import train
from scalex.system.configs import CONF
from scalex.system.overrides import format_override

__all__ = ["start"]


def start(command: Command) -> None:
    """Compose the settings of a command, with those among the arguments of this program, and run it.

    Parameters
    ----------
    command
        The name of the command and of its configuration.

    Raises
    ------
    SystemExit
        For an error of the user, with one line.
    """
    move_multirun_first()
    _quote_address()
    if command != "project":
        _choose_files()
        sys.argv[1:] = choose_space(sys.argv[1:])
    if command == "tune" and {"-m", "--multirun"} & set(sys.argv):
        sys.exit("scalex tune: a search has no -m. To search several values of a setting: tune.space.NAME=[...].")
    run_command(hydra.main(version_base="1.3", config_path=str(CONF), config_name=command)(TASKS[command]), command)


def _choose_files() -> None:
    """Let ``dataset.path=`` alone mean the user's files: the default is the demo."""
    names = {argument.partition("=")[0] for argument in sys.argv[1:]}
    if "dataset.path" in names and "dataset" not in names:
        sys.argv.append("dataset=files")


def _quote_address() -> None:
    """Let ``reference=https://host/file.zip#sha256=...`` be typed without the quotes that Hydra needs for it."""
    for n, argument in enumerate(sys.argv[1:], 1):
        name, _, value = argument.partition("=")
        if name == "reference" and re.match("https?://", value):
            sys.argv[n] = format_override(name, value)


def _say_hello() -> None:
    """Tell somebody at a terminal that the program is there: its imports take seconds."""
    if sys.stderr.isatty() and not is_sweep():
        sys.stderr.write(f"scalex {__version__}\n")


# Module-level functions, which the launchers of sweeps send to other processes by name.
def _train(cfg: DictConfig) -> float | None:
    _say_hello()
    if cfg.get("tune") is None:
        return exit_on_errors(train, cfg)
    # It imports pandas.
    from scalex.commands.tune import tune

    return exit_on_errors(tune, cfg)


def _project(cfg: DictConfig) -> None:
    _say_hello()
    exit_on_errors(project, cfg)


TASKS: Mapping[Command, Callable[[DictConfig], Any]] = {"train": _train, "tune": _train, "project": _project}
