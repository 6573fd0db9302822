"""Errors of the user as one line instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from hydra.errors import InstantiationException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from scalex.commands.sweep import add_failed_run, is_sweep

__all__ = ["exit_on_errors"]

# Exceptions that the user can fix.
USER_ERRORS = (ValueError, KeyError, OSError, NotImplementedError, FloatingPointError)

Result = TypeVar("Result")


def exit_on_errors(run: Callable[[DictConfig], Result], cfg: DictConfig) -> Result | None:
    """Run a command, and exit with one line for an error that the user can fix. In a sweep, the other runs go on.

    Raises
    ------
    SystemExit
        If the command, unless it is a run of a sweep, fails with an error that the user can fix.
    """
    try:
        return run(cfg)
    except (OmegaConfBaseException, InstantiationException, *USER_ERRORS) as error:
        message = _describe(error)
        if message is None:
            raise
        if not is_sweep():
            sys.exit(message)
        add_failed_run(message)
        return None


def _describe(error: BaseException) -> str | None:
    """Return one line for an error of the user, and None for a defect of the program."""
    if isinstance(error, OmegaConfBaseException):
        message = str(error).splitlines()[0]
        return f"{type(error).__name__}: {error.full_key}: {message}. ${{}} refers to the value of another setting."
    cause = error.__cause__ if isinstance(error, InstantiationException) else error
    if not isinstance(cause, USER_ERRORS):
        return None
    return f"{type(cause).__name__}: {cause.args[0] if isinstance(cause, KeyError) else cause}"
