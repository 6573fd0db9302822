"""Stop when training does not get better."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks

__all__ = ["EarlyStopping"]


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's, which waits until the loss can be compared from one epoch to the next: before that, nothing is counted.

    Parameters
    ----------
    monitor, **options
        As Lightning's.
    """

    def __init__(self, monitor: str = "train/loss", **options: Any) -> None:
        super().__init__(monitor, **options)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the loss, once those of epochs can be compared."""
        if getattr(pl_module, "loss_is_comparable", True):
            super().on_train_epoch_end(trainer, pl_module)
