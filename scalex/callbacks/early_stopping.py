"""Early stopping by the training loss."""

from __future__ import annotations

from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks

__all__ = ["EarlyStopping"]


class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's early stopping, which starts when the losses of epochs are comparable.

    Parameters
    ----------
    monitor, **options
        As in Lightning.
    """

    def __init__(self, monitor: str = "train/loss", **options: Any) -> None:
        super().__init__(monitor, **options)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the loss if it is comparable with that of other epochs."""
        if getattr(pl_module, "loss_is_comparable", True):
            super().on_train_epoch_end(trainer, pl_module)
