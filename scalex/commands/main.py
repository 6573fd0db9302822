"""The program ``scalex`` with its commands. Imports wait until a command needs them, so that the first words come soon."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from scalex.commands.interrupt import explain_interrupt

if TYPE_CHECKING:
    from scalex.commands.settings_table import Command

__all__ = ["main", "start"]

# What the commands do. Those with settings come first.
COMMANDS: Mapping[str, str] = {
    "train": "integrate cells of several domains into one embedding",
    "tune": "search for settings with a better score",
    "project": "place new cells in the embedding of a trained model",
    "genes": "markers of a finished run, sums of its samples, and tests between conditions",
    "pack": "write a reference to one file for others, with a card",
    "doctor": "show versions, devices and free space, for a report of a problem",
}
WITH_SETTINGS: tuple[Command, ...] = ("train", "tune", "project")


def main() -> None:
    """Run the command that the first argument of this program names.

    Raises
    ------
    SystemExit
        At the end of everything but a command that succeeds, with a line for an error of the user.
    """
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if command in ("--help", "-h"):
        sys.stdout.write(_write_help())
    elif command == "--version":
        from scalex import __version__

        sys.stdout.write(f"scalex {__version__}\n")
    elif command in ("-sc", "--shell-completion", "--shell_completion"):
        _complete()
    elif command not in COMMANDS:
        from scalex.system.settings import describe_nearest

        sys.exit(f"scalex {command}: there is no such command{describe_nearest(command, COMMANDS)}")
    elif command == "doctor":
        from scalex.commands.doctor import describe_machine

        explain_interrupt()
        sys.stdout.write(describe_machine())
    elif command == "genes":
        from scalex.commands.genes import genes

        explain_interrupt()
        genes(sys.argv[2:])
    elif command == "pack":
        from scalex.commands.pack import pack

        explain_interrupt()
        pack(sys.argv[2:])
    else:
        del sys.argv[1]
        start(next(one for one in WITH_SETTINGS if one == command))


def start(command: Command) -> None:
    """Run a command with the settings among the arguments of this program.

    Parameters
    ----------
    command
        One of `WITH_SETTINGS`.

    Raises
    ------
    SystemExit
        For an error of the user, with one line.
    """
    explain_interrupt()
    if {"--help", "-h"} & set(sys.argv[1:]):
        from scalex.commands.help import write_help

        sys.stdout.write(write_help(command, sys.argv[1:]))
        return
    import_module("scalex.commands.start").start(command)


def _write_help() -> str:
    lines = "".join(f"  scalex {name:10}{text}\n" for name, text in COMMANDS.items())
    return (
        "SCALEX integrates single cells of several domains (donors, technologies, laboratories) into one embedding, and projects new\n"
        f"cells into it.\n\n{lines}\nscalex train alone integrates simulated demo cells. scalex train --help lists all settings.\n"
        'scalex --version shows the version. eval "$(scalex -sc install=bash)" lets bash complete settings (fish: install=fish).\n'
    )


def _complete() -> None:
    """Answer a shell that completes a line. Hydra knows the settings of a command, but no commands."""
    words = os.environ.get("COMP_LINE", "").split(" ")
    if len(sys.argv) > 2 and sys.argv[2].startswith("query=") and (len(words) < 3 or words[1] not in WITH_SETTINGS):
        sys.stdout.write(f"{' '.join(COMMANDS)}\n" if len(words) < 3 else "")
        return
    command = next((one for one in WITH_SETTINGS if one in words[1:2]), "train")
    os.environ["COMP_LINE"] = " ".join([*words[:1], *words[2:]])
    import_module("scalex.commands.start").start(command)
