"""Errors of the user as one line instead of a traceback."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TypeVar

from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

__all__ = ["exit_on_errors", "is_sweep"]

# Exceptions that the user can fix.
USER_ERRORS = (ValueError, KeyError, OSError, NotImplementedError, FloatingPointError)

Result = TypeVar("Result")


def is_sweep() -> bool:
    """Return whether this is one of the runs of ``--multirun``."""
    return bool(HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


def exit_on_errors(run: Callable[[DictConfig], Result], cfg: DictConfig) -> Result:
    """Run a command, and exit with one line for an error that the user can fix. In a sweep, Hydra gets all errors.

    Raises
    ------
    SystemExit
        If the command fails with an error that the user can fix.
    """
    try:
        return run(cfg)
    except OmegaConfBaseException as error:
        if is_sweep():
            raise
        message = str(error).splitlines()[0]
        sys.exit(f"{type(error).__name__}: {error.full_key}: {message}. ${{}} refers to the value of another setting.")
    except (InstantiationException, *USER_ERRORS) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if is_sweep() or not isinstance(cause, USER_ERRORS):
            raise
        sys.exit(f"{type(cause).__name__}: {cause.args[0] if isinstance(cause, KeyError) else cause}")
