"""Early stopping by the training loss."""

from __future__ import annotations

from typing import Literal

from lightning import LightningModule, Trainer
from lightning.pytorch import callbacks

from scalex.system.settings import Count, NonNegative, check_call

# The losses that models log.
Monitored = Literal["train/loss", "train/reconstruction", "train/kl", "train/correction"]

__all__ = ["EarlyStopping"]


@check_call
class EarlyStopping(callbacks.EarlyStopping):
    """Lightning's early stopping, which starts when the losses of epochs are comparable.

    Parameters
    ----------
    monitor
        The loss to watch. Not every model logs all of them.
    patience
        Number of epochs without an improvement after which the training stops.
    min_delta
        Smallest change that counts as an improvement.
    mode
        Whether smaller ("min") or larger ("max") values are better.
    """

    def __init__(
        self,
        monitor: Monitored = "train/loss",
        *,
        patience: Count = 10,
        min_delta: NonNegative = 0.0,
        mode: Literal["min", "max"] = "min",
    ) -> None:
        super().__init__(monitor, patience=patience, min_delta=min_delta, mode=mode)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the loss if it is comparable with that of other epochs."""
        if getattr(pl_module, "loss_is_comparable", True):
            super().on_train_epoch_end(trainer, pl_module)
