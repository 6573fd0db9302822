"""Projection to a folder: results, report and figures, and on request a new version of the reference."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path
from typing import Any

import h5py
from anndata import AnnData, read_h5ad
from anndata.io import read_elem
from lightning import Trainer

from scalex.cells import CellSource
from scalex.projection.adaptation import open_with_adapter
from scalex.projection.project import project
from scalex.projection.report import Report
from scalex.reference.adapter import Adapter
from scalex.reference.finished_run import FinishedRun
from scalex.reference.lineage import write_lineage
from scalex.system.atomic_files import atomic_write
from scalex.system.memory import return_freed_memory

__all__ = ["project_to", "project_to_anndata"]

logger = logging.getLogger(__name__)

# Folder of the adapter within that of a projection.
ADAPTER = "adapter"


def project_to(
    folder: Path,
    reference: FinishedRun,
    source: CellSource,
    trainer: Trainer | None = None,
    *,
    append: bool = False,
    adapt: bool = False,
    adapter: Adapter | str | Path | None = None,
    fit_on: str | None = None,
    **options: Any,
) -> Report:
    """Project cells into a reference, and write ``adata.h5ad``, ``report.json``, the figures and the adapter to a folder.

    Parameters
    ----------
    folder
        Folder of the results; see `new_folder`.
    reference, source, trainer, options
        As in `scalex.projection.project.project`.
    append
        Make the folder a new version of the reference: the same model with the old and the new cells.
    adapt, adapter, fit_on
        Fit an adapter to the new cells, or use the given one; see `scalex.projection.adaptation.fit_adapter`.

    Raises
    ------
    ValueError
        If `append` and `repeat` are both true, and as in `scalex.projection.project.project` and
        `scalex.projection.adaptation.open_with_adapter`.
    """
    if append and options.get("repeat"):
        raise ValueError("append=true adds the new cells to those of the reference, but repeat=true omits these: use only one of them.")
    return_freed_memory()
    cells, used = open_with_adapter(reference, source, trainer, adapt=adapt, adapter=adapter, fit_on=fit_on, **options)
    if used is not None:
        used.save(folder / ADAPTER)
        logger.info("Wrote %s", folder / ADAPTER)
    with atomic_write(folder / "adata.h5ad") as path:
        with h5py.File(path, "w") as file:
            report = project(reference, cells, file, trainer, adapter=used, **options)
        report.write(folder)
        report.write_page(folder, path)
        if append:
            # The model comes first: without adata.h5ad, the folder does not count as a reference yet.
            with atomic_write(folder / "checkpoint" / "best.ckpt") as checkpoint:
                shutil.copyfile(reference.folder / "checkpoint" / "best.ckpt", checkpoint)
            n_cells = reference.cells.n_obs + report.numbers["query"]["n_cells"]
            write_lineage(folder, reference.lineage, "projected" if used is None else "projected with an adapter", n_cells)
    logger.info("Wrote %s", folder / "adata.h5ad")
    if append:
        logger.info("The reference has grown from %s to %s cells: %s", f"{reference.cells.n_obs:,}", f"{n_cells:,}", folder)
    return report


def project_to_anndata(
    folder: Path | None,
    reference: FinishedRun,
    source: CellSource,
    trainer: Trainer | None = None,
    *,
    adapt: bool = False,
    adapter: Adapter | str | Path | None = None,
    fit_on: str | None = None,
    **options: Any,
) -> tuple[AnnData, Report]:
    """Project cells into a reference in one process, and return the result with its report.

    The parameters are those of `project_to`. Nothing is written if `folder` is None.
    """
    if folder is None:
        cells, used = open_with_adapter(reference, source, trainer, adapt=adapt, adapter=adapter, fit_on=fit_on, **options)
        with h5py.File("projection", "w", driver="core", backing_store=False) as file:
            report = project(reference, cells, file, trainer, adapter=used, **options)
            return read_elem(file), report
    report = project_to(folder, reference, source, trainer, adapt=adapt, adapter=adapter, fit_on=fit_on, **options)
    return read_h5ad(folder / "adata.h5ad"), report
