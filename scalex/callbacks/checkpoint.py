"""Best and last weights, in memory and in the run folder."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import Tensor

from scalex.files import written_whole

__all__ = ["Checkpoint"]


class Checkpoint(callbacks.Checkpoint):
    """Keep the weights of the epoch with the lowest training loss, go back to them at the end, and save what resuming needs.

    Writes ``checkpoint/last.ckpt``, from which training goes on as if it had never stopped, and ``checkpoint/best.ckpt``, the trained model
    without the state of training. Both are written whole, at the end of an epoch.

    Lightning's own ModelCheckpoint writes a file for each better epoch, which takes longer than a short epoch; this one keeps the best
    weights in memory and in ``last.ckpt``.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    every_seconds
        Shortest time between two writes; the end of training is always written.
    """

    def __init__(self, folder: str | Path | None, *, every_seconds: float = 30.0) -> None:
        self.folder = None if folder is None else Path(folder) / "checkpoint"
        self.every_seconds = every_seconds
        self._best_loss = float("inf")
        self._best_weights: dict[str, Tensor] = {}
        self._written = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The clock starts here, not when the callback is made."""
        self._written = time.monotonic()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best, and write if it is time."""
        loss = float(trainer.callback_metrics["train/loss"])
        if loss < self._best_loss:
            self._best_loss = loss
            self._best_weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}
        if time.monotonic() - self._written > self.every_seconds:
            self._write(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write, and go back to the best weights."""
        self._write(trainer)
        if self._best_weights:
            pl_module.load_state_dict(self._best_weights)

    def state_dict(self) -> dict[str, Any]:
        """Best loss and weights: part of ``last.ckpt``."""
        return {"loss": self._best_loss, "weights": self._best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take them up again."""
        self._best_loss = state_dict["loss"]
        self._best_weights = state_dict["weights"]

    def _write(self, trainer: Trainer) -> None:
        if self.folder is None or not self._best_weights:
            return
        with written_whole(self.folder / "last.ckpt") as path:
            trainer.save_checkpoint(path)
        last = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
        if trainer.is_global_zero:
            with written_whole(self.folder / "best.ckpt") as path:
                torch.save(last | {"state_dict": self._best_weights}, path)
        self._written = time.monotonic()
