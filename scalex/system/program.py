"""How the user started this program, so that messages name commands in the same way."""

from __future__ import annotations

import sys
from pathlib import Path

__all__ = ["list_leading_arguments", "name_command"]


def name_command(command: str) -> str:
    """Return what to type for a command: ``python train.py`` from a script of a clone, otherwise ``scalex train``.

    Parameters
    ----------
    command
        "train", "project", or another command.
    """
    return f"python {command}.py" if _is_script() and command in ("train", "project") else f"scalex {command}"


def list_leading_arguments(command: str) -> list[str]:
    """Return the arguments that come before the settings of a command when this program is started again."""
    return [] if _is_script() else [command]


def _is_script() -> bool:
    """Return whether a script of the top folder was started."""
    return Path(sys.argv[0]).name in ("train.py", "project.py")
