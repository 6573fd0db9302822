"""Forecast of reads, memory and time of a training on cells in files."""

from __future__ import annotations

import copy
import logging
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch

from scalex.data import CellBatch, ScalexDataModule
from scalex.data.sizes import VALUE_BYTES
from scalex.model.base import Model
from scalex.nn import SparseRows

__all__ = ["log_forecast"]

logger = logging.getLogger(__name__)

# Cells and repetitions of a trial read and step.
N_TRIAL_CELLS = 2048
N_TRIALS = 3


def log_forecast(module: Model, data: ScalexDataModule, device: torch.device) -> None:
    """Log how often the cells are read, how much memory they take and about how long the training takes.

    The time is measured in a trial, which reads some cells and takes some steps with a copy of the model.

    Parameters
    ----------
    module
        The model, which knows what it is trained on.
    data
        Cells in files.
    device
        Device of the training.
    """
    assert data.sizes is not None
    plan = module.hparams
    n_cells, batch_size = len(data.rows), min(data.batch_size, len(data.rows))
    n_steps = module.count_steps(n_cells)
    if plan["max_epochs"] is not None:
        n_steps = min(n_steps, plan["max_epochs"] * -(-n_cells // batch_size))
    n_epochs = n_steps * batch_size / n_cells
    n_embedded = module.count_embeddings(n_steps, n_cells) + 1
    n_times = n_epochs + n_embedded
    gigabytes = n_cells * data.values_per_cell * VALUE_BYTES / 1e9
    logger.info(
        "The cells stay in their files: %s cells with %s values each are read %.1f times, %.1f GB an epoch and %.1f GB in all without "
        "compression (%.1f epochs at most, corrections and embedding). About %.0f MB of them are in memory at a time (dataset.memory_gb)",
        f"{n_cells:,}", f"{data.values_per_cell:,.0f}", n_times, gigabytes, n_times * gigabytes, n_epochs, data.sizes.megabytes,
    )  # fmt: skip
    some = np.arange(min(N_TRIAL_CELLS, n_cells))
    per_cell = _measure_seconds(lambda: data.inputs(some)) / len(some)
    # The next cells are read during a step.
    training = n_steps * max(_measure_step(module, data, batch_size, device), batch_size * per_cell)
    embedding = n_embedded * n_cells * per_cell
    logger.info(
        "Estimated time: %s of training and %s of reading for corrections and embedding, not counting the corrections themselves, "
        "neighbours, UMAP and scores",
        _format_time(training), _format_time(embedding),
    )  # fmt: skip


def _measure_step(module: Model, data: ScalexDataModule, batch_size: int, device: torch.device) -> float:
    rows = np.arange(batch_size)
    trial = copy.deepcopy(module).to(device).train()
    optimizer = torch.optim.Adam(trial.parameters(), fused=True)
    inputs = SparseRows.of(data.inputs(rows)).to(device)
    batch = CellBatch(inputs, torch.from_numpy(data.domain[rows]).to(device), torch.from_numpy(rows).to(device))

    def step() -> None:
        optimizer.zero_grad()
        torch.autograd.backward(trial.trial_loss(batch))
        optimizer.step()
        if device.type != "cpu":
            torch.accelerator.synchronize(device)

    return _measure_seconds(step)


def _measure_seconds(work: Callable[[], object]) -> float:
    """Return the median time of some repetitions, without the first."""
    times = []
    for _ in range(N_TRIALS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _format_time(seconds: float) -> str:
    """Format a time in h, min or s."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
