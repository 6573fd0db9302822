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

from scalex.runs.failed_runs import forget_failed_runs, note_failed_run, read_failed_runs

__all__ = ["FailedRuns", "add_failed_run", "is_sweep", "move_multirun_first"]


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
    note_failed_run(Path(hydra.sweep.dir), str(hydra.job.num), message)


class FailedRuns(Callback):
    """Hydra's callback that ends a sweep with its page, and with an error if runs have failed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Forget the failed runs of an earlier sweep in the same folder."""
        forget_failed_runs(Path(config.hydra.sweep.dir))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Name the failed runs.

        Raises
        ------
        SystemExit
            If there are any.
        """
        folder = Path(config.hydra.sweep.dir)
        failed = read_failed_runs(folder)
        if failed:
            from scalex.runs.sweep_page import write_sweep

            # The runs that finish write it, too, but not the last messages.
            write_sweep(folder, [config.get("score", "total")])
            sys.exit(
                f"Failed runs of the sweep {folder}: {', '.join(failed)}. Their messages are above, or in the launcher's logs. When the "
                "cause is removed, type the same command with the same output= again: it skips finished runs and resumes stopped ones."
            )
