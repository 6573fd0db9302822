"""The report of a training as a page, ``report.html``."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from lightning import Trainer

from scalex.callbacks.result import Output, Result
from scalex.features.annotation import rename_column
from scalex.report.training import write_training_report
from scalex.system.settings import Seed, check_call

__all__ = ["ReportPage"]

logger = logging.getLogger(__name__)


@check_call
class ReportPage(Output):
    """Write ``report.html``: maps that can be coloured by any column and some genes, scores, composition of the clusters, and losses.

    It shows what the outputs before it have added: `UmapPlot` the map and the clusters, `Scores` the scores.

    Parameters
    ----------
    folder
        The run folder. None: nothing is written.
    label_key
        Column of obs with known cell types. It may be absent.
    genes
        Genes that the map can be coloured by. None: those that tell the clusters apart. Only cells in memory have genes.
    seed
        Seed of the samples.
    """

    def __init__(
        self, folder: str | Path | None, *, label_key: str = "cell_type", genes: Sequence[str] | None = None, seed: Seed = 124
    ) -> None:
        self.folder = None if folder is None else Path(folder)
        self.label_key = rename_column(label_key)
        self.genes = genes
        self.seed = seed

    def on_result(self, result: Result, trainer: Trainer) -> None:
        """Write the page."""
        if self.folder is None:
            return
        parameters = result.adata.uns["scalex"].get("parameters", {})
        write_training_report(
            self.folder, result.adata, label_key=self.label_key, genes=self.genes, parameters=parameters, seed=self.seed
        )  # fmt: skip
        logger.info("Wrote %s", self.folder / "report.html")
