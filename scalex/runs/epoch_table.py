"""Table of the losses of the epochs, ``metrics.csv``."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
from lightning.pytorch.loggers import Logger
from lightning.pytorch.utilities import rank_zero_only

from scalex.system.atomic_files import atomic_write

__all__ = ["EpochTable"]

WHOLE = ("epoch", "step")


class EpochTable(Logger):
    """A Lightning logger that writes ``metrics.csv``, one row per epoch, and that continues the table of a resumed run.

    Lightning's CSVLogger would delete the table of the run that is resumed, because it is in the same folder.

    Parameters
    ----------
    folder
        The run folder.
    """

    def __init__(self, folder: str | Path) -> None:
        super().__init__()
        self.path = Path(folder) / "metrics.csv"
        self._rows: list[dict[str, Any]] = []
        self._n_written = 0

    @property
    def name(self) -> str:
        """Name of the logger."""
        return "metrics"

    @property
    def version(self) -> str:
        """Empty, because a folder has one table."""
        return ""

    @property
    def experiment(self) -> None:
        """None, because there is no tracker."""
        return

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Do nothing: config.yaml holds the settings."""

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Add the losses of an epoch. Other metrics are ignored."""
        if "train/loss" not in metrics:
            return
        if not self._rows and self.path.exists():
            # Epochs after the last checkpoint are trained again.
            self._rows = [row for row in _read_rows(self.path) if row["epoch"] < metrics["epoch"]]
        first = {"epoch": int(metrics["epoch"]), "step": step}
        self._rows.append(first | {name.rpartition("/")[2]: value for name, value in metrics.items() if name != "epoch"})

    @rank_zero_only
    def save(self) -> None:
        """Write the table."""
        if len(self._rows) > self._n_written:
            with atomic_write(self.path) as path:
                pd.DataFrame(self._rows).to_csv(path, index=False)
            self._n_written = len(self._rows)


def _read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table. Numbers keep all their bits, which the default of pandas before 3.1 does not do."""
    with path.open(newline="") as file:
        return [
            {name: int(value) if name in WHOLE else float(value) for name, value in row.items() if value} for row in csv.DictReader(file)
        ]
