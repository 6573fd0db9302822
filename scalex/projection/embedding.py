"""Embedding of new cells by a reference's encoder, chunk by chunk."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np
from lightning import Trainer
from numpy.typing import NDArray
from tqdm.auto import tqdm

from scalex.data import CellBatch
from scalex.data.stream import ChunkLoader
from scalex.model.base import AllCells
from scalex.model.inference import on_device
from scalex.model.options import Statistics
from scalex.projection.query import Query
from scalex.reference.finished_run import FinishedRun
from scalex.system.processes import ignore_launcher

__all__ = ["embed_chunks", "make_quiet_trainer", "show_progress"]


def embed_chunks(
    reference: FinishedRun, data: Query, share: ChunkLoader, trainer: Trainer, statistics: Statistics | None
) -> Iterator[tuple[CellBatch, NDArray[np.float32]]]:
    """Yield the chunks of a share of the cells with their latents.

    Each process sums the statistics over all cells in the same order, so that they do not depend on the number of processes.
    """
    module, all_cells = reference.module, AllCells(data.batches(), len(data.domains))
    with on_device(module, trainer):
        for batch, latent_CZ in module.embed(share, statistics, fill_value=data.transform.fill_value, all_cells=all_cells):
            yield batch, latent_CZ.cpu().numpy()


def show_progress(data: Query, text: str = "Projecting") -> Any:
    """Return a progress bar, which is shown only in a terminal."""
    return tqdm(total=data.n_cells, desc=text, unit="cell", unit_scale=True, disable=None, leave=False)


def make_quiet_trainer() -> Trainer:
    """Return a trainer that computes on the CPU, without files and messages."""
    with ignore_launcher(), warnings.catch_warnings():
        # Lightning warns on a machine with a GPU.
        warnings.filterwarnings("ignore", message="GPU available but not used")
        return Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)
