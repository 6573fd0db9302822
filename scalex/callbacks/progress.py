"""Progress bar with loss and speed."""

from __future__ import annotations

import logging
import sys
import time
from contextlib import ExitStack
from typing import Any

from lightning import Callback, LightningModule, Trainer
from tqdm.auto import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm

from scalex.system.settings import NonNegative, check_call

__all__ = ["Progress"]


@check_call
class Progress(Callback):
    """A progress bar over all steps of the training, because epochs of small data sets are too short for a bar each.

    Parameters
    ----------
    every_seconds
        Shortest time between two updates. Reading the loss waits for the device.
    """

    def __init__(self, *, every_seconds: NonNegative = 0.5) -> None:
        self.every_seconds = every_seconds
        self._bar: Any = None
        self._lines_above = ExitStack()
        self._update_time = 0.0
        self._n_cells = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Open the bar, which is shown only in a terminal and in a notebook. Lines of the log then stand above it."""
        total, done = int(trainer.estimated_stepping_batches), trainer.global_step
        is_seen = trainer.is_global_zero and (sys.stderr.isatty() or _is_notebook())
        self._bar = tqdm(total=total, initial=done, desc="Training", unit="step", disable=not is_seen)
        if is_seen and not _is_notebook():
            self._lines_above.enter_context(logging_redirect_tqdm([logging.getLogger("scalex")]))
        self._update_time, self._n_cells = time.monotonic(), 0

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Count the cells, and update the bar if it is time."""
        self._n_cells += len(batch.row_C)
        seconds = time.monotonic() - self._update_time
        if seconds < self.every_seconds or self._bar.disable:
            return
        loss, speed = float(outputs["loss"]), self._n_cells / seconds
        self._bar.set_postfix_str(f"epoch {trainer.current_epoch}, loss {loss:.1f}, {speed:,.0f} cells/s", refresh=False)
        self._bar.update(trainer.global_step - self._bar.n)
        self._update_time, self._n_cells = time.monotonic(), 0

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Close the bar."""
        self._bar.update(trainer.global_step - self._bar.n)
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Close the bar, so that the error gets its own line."""
        if self._bar is not None:
            self._close()

    def _close(self) -> None:
        self._bar.close()
        self._lines_above.close()


def _is_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return type(shell).__name__ == "ZMQInteractiveShell"
