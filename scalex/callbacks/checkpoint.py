"""Best and last weights, in memory and in the run folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import Tensor

from scalex.system.atomic_files import atomic_write
from scalex.system.overrides import format_for_shell

__all__ = ["Checkpoint"]

logger = logging.getLogger(__name__)

# Minibatches after which several processes agree again whether to write.
AGREE_EVERY = 50


class Checkpoint(callbacks.Checkpoint):
    """Keep the weights of the epoch with the lowest training loss, restore them at the end, and save checkpoints.

    ``checkpoint/last.ckpt`` resumes a training to the same bits. ``checkpoint/best.ckpt`` is the trained model without the state of the
    training, from the end of the first epoch on. Both are written between two minibatches, whole or not at all.

    Lightning's ModelCheckpoint writes a file for each better epoch, which takes longer than a short epoch. Here the best weights are in
    memory and in ``last.ckpt``.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    every_seconds
        Shortest time between two checkpoints. The end of training is always written.
    """

    def __init__(self, folder: str | Path | None, *, every_seconds: float = 30.0) -> None:
        self.folder = None if folder is None else Path(folder) / "checkpoint"
        self.every_seconds = every_seconds
        self._best_loss = float("inf")
        self._best_weights: dict[str, Tensor] = {}
        self._written = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._written = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write within an epoch, if it is time. Several processes agree on it."""
        # A checkpoint does not hold accumulated gradients. The last minibatch of an epoch waits for the mean loss.
        every = trainer.accumulate_grad_batches * (AGREE_EVERY if trainer.world_size > 1 else 1)
        if (batch_idx + 1) % every or trainer.is_last_batch:
            return
        if trainer.strategy.broadcast(time.monotonic() - self._written > self.every_seconds):
            self._write(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write between two epochs, if it is time."""
        due = time.monotonic() - self._written > self.every_seconds
        if trainer.strategy.broadcast(due) and not trainer.fit_loop.restarting:
            # Lightning does this later. Without it, the checkpoint would count the new epoch's minibatches as done.
            trainer.fit_loop.epoch_loop.reset()
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best. Until losses can be compared, the last weights are the best."""
        comparable = getattr(pl_module, "loss_is_comparable", True)
        loss = float(trainer.callback_metrics["train/loss"]) if comparable else float("inf")
        if loss < self._best_loss or not comparable:
            self._best_loss = loss
            self._best_weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the end of training."""
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the best weights."""
        if self._best_weights:
            pl_module.load_state_dict(self._best_weights)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log how to resume, if the user stopped the run."""
        if self.folder is not None and not isinstance(exception, Exception):
            typed = format_for_shell("resume", self.folder.parent)
            logger.warning("Stopped at step %d. Resume with: python train.py %s", trainer.global_step, typed)

    def state_dict(self) -> dict[str, Any]:
        """Return the best loss and weights for ``last.ckpt``."""
        return {"loss": self._best_loss, "weights": self._best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore them."""
        self._best_loss = state_dict["loss"]
        self._best_weights = state_dict["weights"]

    def _write(self, trainer: Trainer) -> None:
        if self.folder is None:
            return
        self._written = time.monotonic()
        if not trainer.is_global_zero:
            # Lightning waits for all processes. The first writes.
            trainer.save_checkpoint(self.folder / "last.ckpt")
            return
        with atomic_write(self.folder / "last.ckpt") as path:
            trainer.save_checkpoint(path)
        if not self._best_weights:
            return
        last = trainer._checkpoint_connector.dump_checkpoint(weights_only=True)
        with atomic_write(self.folder / "best.ckpt") as path:
            torch.save(last | {"state_dict": self._best_weights}, path)
