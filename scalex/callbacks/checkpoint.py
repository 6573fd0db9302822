"""Checkpoints of the best and the last weights, in memory and in the run folder."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks
from torch import Tensor

from scalex.runs.folder import COMPOSED
from scalex.system.atomic_files import atomic_write
from scalex.system.overrides import format_for_shell
from scalex.system.program import name_command
from scalex.system.settings import NonNegative, check_call

__all__ = ["Checkpoint"]

logger = logging.getLogger(__name__)

# Training steps after which several processes agree whether to write.
AGREE_EVERY = 50


@check_call
class Checkpoint(callbacks.Checkpoint):
    """Keep the weights of the epoch with the lowest training loss, restore them at the end, and save the state to resume from.

    The callback writes ``checkpoint/last.ckpt``, from which training resumes as if it had never stopped, between two minibatches. At the
    end it writes ``checkpoint/best.ckpt``, the trained model without the state of training. Both are written atomically.

    Lightning's own ModelCheckpoint writes a file for each better epoch, which takes longer than a short epoch. This callback keeps the
    best weights in memory and in ``last.ckpt``.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    every_seconds
        Shortest time between two writes. The end of training is always written.
    """

    def __init__(self, folder: str | Path | None, *, every_seconds: NonNegative = 30.0) -> None:
        self.folder = None if folder is None else Path(folder) / "checkpoint"
        self.every_seconds = every_seconds
        self._best_loss = float("inf")
        self._best_weights: dict[str, Tensor] = {}
        # The step of last.ckpt.
        self._written_step: int | None = None
        self._write_time = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._written_step = trainer.global_step or None
        self._write_time = time.monotonic()

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Write within an epoch if it is time. Several processes agree on this only every 50 steps."""
        # A checkpoint holds no accumulated gradients. At the end of an epoch, its mean loss is not known yet.
        every = trainer.accumulate_grad_batches * (AGREE_EVERY if trainer.world_size > 1 else 1)
        if (batch_idx + 1) % every or trainer.is_last_batch:
            return
        if trainer.strategy.broadcast(time.monotonic() - self._write_time > self.every_seconds):
            self._write(trainer)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write between two epochs if it is time."""
        due = time.monotonic() - self._write_time > self.every_seconds
        if trainer.strategy.broadcast(due) and not trainer.fit_loop.restarting:
            # Lightning resets the loop after this hook. Without a reset, the checkpoint would count the new epoch's minibatches as done.
            trainer.fit_loop.epoch_loop.reset()
            self._write(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the weights if they are the best. While losses of epochs are not comparable, the last weights count as the best."""
        comparable = getattr(pl_module, "loss_is_comparable", True)
        loss = float(trainer.callback_metrics["train/loss"]) if comparable else float("inf")
        if loss < self._best_loss or not comparable:
            self._best_loss = loss
            self._best_weights = {name: value.detach().clone() for name, value in pl_module.state_dict().items()}

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the final state."""
        self._write(trainer)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Restore the best weights, and write the model. If a run is stopped before that, it is written when the run is resumed."""
        if self._best_weights:
            pl_module.load_state_dict(self._best_weights)
        if self.folder is not None and trainer.is_global_zero:
            with atomic_write(self.folder / "best.ckpt") as path:
                torch.save(trainer._checkpoint_connector.dump_checkpoint(weights_only=True), path)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Log how to resume the run if the user stopped it, and from where."""
        if self.folder is None or isinstance(exception, Exception):
            return
        kept, go_on = (
            ("Nothing of it is kept", "Begin again") if self._written_step is None else (f"Step {self._written_step} is kept", "Resume")
        )
        # Only the command line resumes.
        override = format_for_shell("resume", self.folder.parent)
        resume = f" {go_on} with: {name_command('train')} {override}" if (self.folder.parent / COMPOSED).exists() else ""
        logger.warning("Stopped at step %d. %s.%s", trainer.global_step, kept, resume)

    def state_dict(self) -> dict[str, Any]:
        """Return the best loss and weights, which are part of ``last.ckpt``."""
        return {"loss": self._best_loss, "weights": self._best_weights}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore the best loss and weights."""
        self._best_loss = state_dict["loss"]
        self._best_weights = state_dict["weights"]

    def _write(self, trainer: Trainer) -> None:
        if self.folder is None:
            return
        self._write_time = time.monotonic()
        self._written_step = trainer.global_step
        if not trainer.is_global_zero:
            # All processes must call this. Only rank 0 writes.
            trainer.save_checkpoint(self.folder / "last.ckpt")
            return
        with atomic_write(self.folder / "last.ckpt") as path:
            trainer.save_checkpoint(path)
