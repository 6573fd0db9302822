"""Figures of speed that can be compared even on a machine that others also use."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from time import perf_counter
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from numpy.typing import NDArray

from scalex import ScalexDataModule, ScalexModule
from scalex.callbacks import Checkpoint

__all__ = ["Figure", "LightningSteps", "StepClock", "measure_in_turn", "ratio", "seconds_per_call"]

# One round of a measurement: a time in seconds or a number of cells per second.
Figure = Callable[[], float]

# Steps that are not timed, in which memory is allocated and caches are filled.
WARM_UP = 5


def measure_in_turn(figures: Mapping[str, Figure], rounds: int) -> dict[str, NDArray[np.float64]]:
    """Measure each figure once in each round, so that a slow phase of the machine affects all of them.

    Parameters
    ----------
    figures
        Figures to measure. All are run once before the first round.
    rounds
        Number of rounds. If it is 0, the run before the first round counts.

    Returns
    -------
    dict
        (rounds,) values of each figure.
    """
    measured = [[figure() for figure in figures.values()] for _ in range(rounds + 1)]
    return dict(zip(figures, np.array(measured[1:] or measured).T, strict=True))


def ratio(values: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """Return the median over the rounds of the ratio of two figures of the same round."""
    return float(np.median(values / others))


def seconds_per_call(function: Callable[[], object], calls: int) -> Figure:
    """Return a figure: the median time of a call in a round of `calls`, after a warm-up."""

    def measure() -> float:
        for _ in range(WARM_UP):
            function()
        times = np.zeros(calls)
        for i in range(calls):
            start = perf_counter()
            function()
            times[i] = perf_counter() - start
        return float(np.median(times))

    return measure


class StepClock(Callback):
    """Record the time at which each training step ends, and its number of cells."""

    def __init__(self) -> None:
        self._ends: list[float] = []
        self._cells: list[int] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Record the time and the number of cells."""
        self._ends.append(perf_counter())
        self._cells.append(len(batch.row_C))

    def seconds_per_step(self) -> float:
        """Return the median time from the end of one step to the end of the next, without the warm-up."""
        return float(np.median(np.diff(self._ends[WARM_UP:])))

    def cells_per_second(self) -> float:
        """Return cells over time, without the warm-up but with the time between epochs."""
        return sum(self._cells[WARM_UP + 1 :]) / (self._ends[-1] - self._ends[WARM_UP])


@dataclass(frozen=True)
class LightningSteps:
    """Training as by `scalex.fit`, but without files.

    Attributes
    ----------
    module
        A module that knows its reference.
    data
        The data of the training.
    n_steps
        Steps to measure in a round.
    precision
        Lightning's name of the precision.
    devices, strategy
        Number of processes and Lightning's strategy for them; Lightning starts the others with the command of the first.
    accelerator
        What computes, by Lightning's name.
    """

    module: ScalexModule
    data: ScalexDataModule
    n_steps: int
    precision: Any = "32-true"
    devices: int = 1
    strategy: Any = "auto"
    accelerator: str = "cpu"

    def run(self) -> StepClock:
        """Train for a warm-up and `n_steps`."""
        clock = StepClock()
        trainer = Trainer(
            accelerator=self.accelerator,
            devices=self.devices,
            strategy=self.strategy,
            precision=self.precision,
            # The end of the first step after the warm-up starts the clock.
            max_steps=WARM_UP + 1 + self.n_steps,
            callbacks=[clock, Checkpoint(None)],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            log_every_n_steps=1,
        )
        trainer.fit(self.module, datamodule=self.data)
        return clock

    def seconds_per_step(self) -> float:
        """Train and return the median time of a step."""
        return self.run().seconds_per_step()

    def cells_per_second(self) -> float:
        """Train and return the cells per second."""
        return self.run().cells_per_second()
