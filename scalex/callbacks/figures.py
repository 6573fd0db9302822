"""Figures of a training, written to the run folder, logged to the trackers and shown."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
from lightning import Trainer
from lightning.pytorch.loggers import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from matplotlib.figure import Figure

from scalex.system.atomic_files import atomic_write
from scalex.system.figure_text import draw_text_as_it_is

__all__ = ["publish_figure"]

logger = logging.getLogger(__name__)


@draw_text_as_it_is()
def publish_figure(figure: Figure, name: str, folder: Path | None, trainer: Trainer, *, show: bool, fit: bool = False) -> None:
    """Write a figure as ``NAME.pdf`` and ``NAME.png``, log it to the trackers that support figures, show it if asked to, and close it.

    With `fit`, the files are as large as what is drawn, as for figures of other packages, whose text may lie outside.
    """
    if folder is not None:
        for ending in ("pdf", "png"):
            with atomic_write(folder / f"{name}.{ending}") as path:
                figure.savefig(path, dpi=150, bbox_inches="tight" if fit else None)
        logger.info("Wrote %s", folder / f"{name}.png")
    for tracker in trainer.loggers:
        _log_figure(tracker, figure, name, trainer.global_step)
    if show and plt.get_backend().lower() != "agg":
        plt.show()
    plt.close(figure)


def _log_figure(tracker: Logger, figure: Figure, name: str, step: int) -> None:
    """Log a figure to a tracker that supports figures."""
    run: Any = getattr(tracker, "experiment", None)
    if isinstance(tracker, WandbLogger):
        tracker.log_image(name, [figure])
    elif isinstance(tracker, TensorBoardLogger):
        run.add_figure(name, figure, step, close=False)
    elif isinstance(tracker, MLFlowLogger):
        run.log_figure(tracker.run_id, figure, f"{name}.png")
