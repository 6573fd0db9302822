"""Errors of a user in one line."""

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

# What a user can mend.
MENDABLE = (ValueError, KeyError, OSError, NotImplementedError, FloatingPointError)

Result = TypeVar("Result")


def is_sweep() -> bool:
    """Whether this is one of the runs of ``--multirun``."""
    return bool(HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


def exit_on_errors(run: Callable[[DictConfig], Result], cfg: DictConfig) -> Result:
    """Run; of an error that a user can mend, print one line instead of a traceback. Errors of a sweep are Hydra's to collect.

    Raises
    ------
    SystemExit
        If the user can mend what went wrong.
    """
    try:
        return run(cfg)
    except OmegaConfBaseException as error:
        if is_sweep():
            raise
        what = str(error).splitlines()[0]
        sys.exit(f"{type(error).__name__}: {error.full_key}: {what}. What stands in ${{}} is the value of another setting.")
    except (InstantiationException, *MENDABLE) as error:
        cause = error.__cause__ if isinstance(error, InstantiationException) else error
        if is_sweep() or not isinstance(cause, MENDABLE):
            raise
        sys.exit(f"{type(cause).__name__}: {cause.args[0] if isinstance(cause, KeyError) else cause}")
