"""What one process does for all that train together, before they can talk to each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

__all__ = ["made_once", "process_rank", "wait_for"]

# Where launchers say which process this is: torchrun, Slurm, Lightning.
RANK_NAMES = ("RANK", "SLURM_PROCID", "LOCAL_RANK")
PATIENCE = 24 * 3600.0

Made = TypeVar("Made")


def process_rank() -> int:
    """Which of the processes that train together this is; 0 where there is one."""
    return next((int(os.environ[name]) for name in RANK_NAMES if name in os.environ), 0)


def wait_for(path: Path, what: str, *, seconds: float = PATIENCE) -> None:
    """Wait until the first process has written a file.

    Raises
    ------
    TimeoutError
        If it is not there in time; `what` says what may be wrong.
    """
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise TimeoutError(f"Waited {seconds:,.0f} s for {path}, which the first process writes. {what}")
        time.sleep(0.2)


def made_once(path: Path, make: Callable[[], Made], save: Callable[[Made, Path], None], load: Callable[[Path], Made]) -> Made:
    """What the first process makes, for all: it leaves it in a file, for which the others wait.

    Parameters
    ----------
    path
        The file, in a folder that all processes see.
    make, save, load
        Make it, write it to a path, read it from there.
    """
    if process_rank() > 0:
        wait_for(path, "Has it stopped?")
        return load(path)
    made = make()
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".unfinished-{path.name}")
    save(made, unfinished)
    unfinished.replace(path)
    return made
