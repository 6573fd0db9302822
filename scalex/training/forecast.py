"""What a training of cells in files will read, need and take, said before it begins."""

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

# Cells that are read, and steps that are taken, to see how long it takes; the first time of each does not count.
TRIAL_CELLS = 2048
TRIALS = 3


def log_forecast(module: Model, data: ScalexDataModule, device: torch.device) -> None:
    """Log what is read how often, how much of it is in memory, and about how long it takes.

    The time is that of a trial: some cells are read, and some steps taken with a copy of the model.

    Parameters
    ----------
    module
        Knows what it is trained on.
    data
        Cells in files.
    device
        Where the model will be trained.
    """
    assert data.sizes is not None
    plan = module.hparams
    n_cells, batch_size = len(data.rows), min(plan["batch_size"], len(data.rows))
    n_steps = plan["max_steps"]
    if plan["max_epochs"] is not None:
        n_steps = min(n_steps, plan["max_epochs"] * -(-n_cells // batch_size))
    n_epochs = n_steps * batch_size / n_cells
    n_embedded = module.count_embeddings(n_steps, n_cells) + 1
    n_times = n_epochs + n_embedded
    gigabytes = n_cells * data.values_per_cell * VALUE_BYTES / 1e9
    logger.info(
        "The cells stay in their files: %s cells with %s values each are read %.1f times, %.1f GB an epoch and %.1f GB in all without "
        "compression (%.1f epochs at most, corrections and embedding); about %.0f MB of them are in memory at a time (dataset.memory_gb)",
        f"{n_cells:,}", f"{data.values_per_cell:,.0f}", n_times, gigabytes, n_times * gigabytes, n_epochs, data.sizes.megabytes,
    )  # fmt: skip
    some = np.arange(min(TRIAL_CELLS, n_cells))
    per_cell = _seconds(lambda: data.inputs(some)) / len(some)
    # What is read for the next step is read while this one is taken.
    training = n_steps * max(_seconds_per_step(module, data, batch_size, device), batch_size * per_cell)
    embedding = n_embedded * n_cells * per_cell
    logger.info(
        "That takes about %s of training and %s of reading for corrections and embedding, if all goes on as fast as at first; besides that "
        "there are the corrections' own work, neighbours, UMAP and scores",
        _spoken(training), _spoken(embedding),
    )  # fmt: skip


def _seconds_per_step(module: Model, data: ScalexDataModule, batch_size: int, device: torch.device) -> float:
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

    return _seconds(step)


def _seconds(work: Callable[[], object]) -> float:
    """Median time of some repetitions, the first excepted."""
    times = []
    for _ in range(TRIALS + 1):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times[1:])


def _spoken(seconds: float) -> str:
    """A time in the unit that suits it."""
    for unit, length in (("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
