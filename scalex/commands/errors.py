"""Errors of the user as one line instead of a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any, TypeVar

from hydra.errors import HydraException, InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scalex.commands.hydra_errors import explain
from scalex.commands.settings_table import Command
from scalex.commands.sweep import add_failed_run, is_sweep
from scalex.system.settings import SettingError

__all__ = ["describe_error", "exit_on_errors", "run_command"]

# Exceptions that the user can fix.
USER_ERRORS = (ValueError, KeyError, OSError, NotImplementedError, FloatingPointError)

Result = TypeVar("Result")


def run_command(main: Callable[[], Any], name: Command) -> None:
    """Run Hydra's entry point of a command, and exit with one line for an error in the settings.

    Parameters
    ----------
    main
        The entry point.
    name
        The name of its configuration.

    Raises
    ------
    SystemExit
        If Hydra cannot read the settings.
    """
    # Otherwise Hydra prints errors in its own words.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        sys.exit(explain(error, name))
    except ValueError as error:
        # Hydra's, of a group that is null: those of the command itself have become an exit.
        sys.exit(" ".join(str(error).split()))


def exit_on_errors(run: Callable[[DictConfig], Result], cfg: DictConfig) -> Result | None:
    """Run a command, and exit with one line for an error that the user can fix. In a sweep, the other runs go on.

    Raises
    ------
    SystemExit
        If the command, unless it is a run of a sweep, fails with an error that the user can fix.
    KeyboardInterrupt
        If the user stopped it.
    """
    try:
        return run(cfg)
    except SystemExit as end:
        if not _is_interrupted(end):
            raise
        # Lightning turns a Ctrl-C into an exit like that of an error.
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        raise KeyboardInterrupt from None
    except Exception as error:
        message = describe_error(error)
        if message is None:
            error.add_note(f"This is a defect of SCALEX. Please report it with these lines, and with log.txt in {cfg.get('output')}.")
            raise
        if not is_sweep():
            sys.exit(message)
        add_failed_run(message)
        return None


def _is_interrupted(end: BaseException) -> bool:
    context = end.__context__
    return context is not None and (isinstance(context, KeyboardInterrupt) or _is_interrupted(context))


def describe_error(error: BaseException) -> str | None:
    """Return one line for an error of the user, and None for a defect of the program."""
    if isinstance(error, OmegaConfBaseException):
        return explain(error, "")
    cause = (error.__cause__ or error) if isinstance(error, InstantiationException) else error
    # Lightning's own check of the trainer's settings.
    if type(cause).__name__ == "MisconfigurationException":
        return f"trainer: {' '.join(str(cause).split())}"
    # torch is not loaded where settings alone are wrong.
    if type(cause).__name__ == "OutOfMemoryError":
        return "The memory of the GPU is full. Lower model.batch_size, model.n_hidden or chunk_size, or use trainer=cpu."
    if type(cause).__module__ in ("torch._inductor.exc", "torch._dynamo.exc"):
        reason = next((line for line in str(cause).splitlines() if line.strip()), type(cause).__name__)
        return f"torch cannot compile the step on this machine ({reason}). Leave out model.compile_step=true, or install a C++ compiler."
    if isinstance(cause, MemoryError):
        return "The memory is full. Leave the cells in their files (dataset.backed=true), or lower chunk_size."
    if not isinstance(cause, USER_ERRORS):
        return None
    if isinstance(cause, SettingError):
        return str(cause)
    return f"{type(cause).__name__}: {cause.args[0] if isinstance(cause, KeyError) else cause}"
