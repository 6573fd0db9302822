"""Runs of a sweep that fail: the others go on, and the sweep ends with the numbers of those that failed."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

__all__ = ["FailedRuns", "add_failed_run", "is_sweep", "move_multirun_first"]

# Runs may be processes on other machines, so they tell the sweep by a file.
PREFIX = ".failed-"


def move_multirun_first() -> None:
    """Move ``-m`` to the front of this program's arguments: Hydra takes the settings after it for unknown arguments otherwise."""
    flags = [argument for argument in sys.argv[1:] if argument in ("-m", "--multirun")]
    sys.argv[1:] = [*flags[:1], *(argument for argument in sys.argv[1:] if argument not in flags)]


def is_sweep() -> bool:
    """Return whether this is one of the runs of ``--multirun``."""
    return bool(HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN)


def add_failed_run(message: str) -> None:
    """Log why this run of a sweep has failed, and note it for the end of the sweep."""
    hydra = HydraConfig.get()
    logging.getLogger("scalex").error("Run %s (%s): %s", hydra.job.num, " ".join(hydra.overrides.task), message)
    (Path(hydra.sweep.dir) / f"{PREFIX}{hydra.job.num}").touch()


class FailedRuns(Callback):
    """Hydra's callback that ends a sweep with an error if runs have failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the failed runs of an earlier sweep in the same folder."""
        _collect(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the failed runs.

        Raises
        ------
        SystemExit
            If there are any.
        """
        folder = Path(config.hydra.sweep.dir)
        failed = _collect(folder)
        if failed:
            sys.exit(
                f"Failed runs of the sweep {folder}: {', '.join(failed)}. Their messages are above, or in the launcher's logs. When the "
                "cause is removed, type the same command with the same output= again: it skips finished runs and resumes stopped ones."
            )


def _collect(folder: Path) -> list[str]:
    """Return the numbers of the failed runs, and remove their files."""
    paths = list(folder.glob(f"{PREFIX}*"))
    for path in paths:
        path.unlink(missing_ok=True)
    return sorted((path.name.removeprefix(PREFIX) for path in paths), key=lambda number: (len(number), number))
