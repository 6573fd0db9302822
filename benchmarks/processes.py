"""Training on two processes of one thread each, compared with one: ``python -m benchmarks.processes``; see README.md in this folder."""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded, and only by the command, so that an import sets nothing.
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import subprocess
import sys
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.warnings import PossibleUserWarning
from omegaconf import OmegaConf
from scipy import sparse

from benchmarks.provenance import ROOT, provenance
from benchmarks.real_cells import cells_to_draw
from benchmarks.resampled import draw_cells
from benchmarks.tables import markdown_table, show
from benchmarks.timing import LightningSteps, measure_in_turn, ratio
from benchmarks.tiny import parse_arguments
from scalex import RnaRecipe, ScalexDataModule, ScalexModule
from scalex.cells import AnnDataSource
from scalex.model.trained_on import TrainedOn
from scalex.system.memory import keep_freed_memory
from scalex.system.processes import is_first

SEED = 124
BATCH_SIZES = (256, 1024, 4096)
# Cells of an epoch, drawn from the real ones; the epoch is long, so that the time between epochs does not count.
N_CELLS = 65_536
STEP_CELLS = 200_000
MIN_STEPS = 30
TINY_CELLS = 600
# The start of the line that a measured process prints.
SECONDS = "seconds per step: "


@dataclass(frozen=True)
class Training:
    """A training to measure.

    Attributes
    ----------
    n_processes
        Number of processes that share each minibatch.
    batch_size
        Number of cells in a minibatch.
    tiny
        Train on few demo cells and for few steps.
    """

    n_processes: int
    batch_size: int
    tiny: bool

    def seconds_per_step(self) -> float:
        """Train with conf/trainer/ddp.yaml and return the time of a step; this runs in each of the processes that Lightning starts."""
        torch.set_num_threads(1)
        keep_freed_memory()
        warnings.filterwarnings("ignore", category=PossibleUserWarning)
        real = cells_to_draw(tiny=self.tiny)
        rows = np.random.default_rng(SEED).choice(real.n_obs, TINY_CELLS if self.tiny else N_CELLS)
        adata = draw_cells(real, sparse.csr_matrix(real.X, dtype=np.float32), rows)
        cells = AnnDataSource(path=adata, batch_key="batch").open()
        data = ScalexDataModule(cells, RnaRecipe(min_features=100).fit(cells), batch_size=self.batch_size, seed=SEED)
        module = ScalexModule(n_latent=30, n_hidden=512, lr=1e-3, seed=SEED)
        module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), version("scalex")), data)
        strategy = instantiate(OmegaConf.load(ROOT / "conf" / "trainer" / "ddp.yaml").strategy) if self.n_processes > 1 else "auto"
        n_steps = 2 if self.tiny else max(MIN_STEPS, STEP_CELLS // self.batch_size)
        return LightningSteps(module, data, n_steps, devices=self.n_processes, strategy=strategy).seconds_per_step()

    def cells_per_second(self) -> float:
        """Train in new processes, which do nothing else, and return the cells per second."""
        command = [sys.executable, "-m", "benchmarks.processes", "--measure", str(self.n_processes), str(self.batch_size)]
        command += ["--tiny"] if self.tiny else []
        process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, cwd=ROOT)
        line = next(line for line in process.stdout.splitlines() if line.startswith(SECONDS))
        return self.batch_size / float(line.removeprefix(SECONDS))


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the table to")
    parser.add_argument("--rounds", type=int, default=3, help="times that each speed is measured")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(BATCH_SIZES), help="sizes of minibatches")
    parser.add_argument("--measure", type=int, nargs=2, help=argparse.SUPPRESS)
    return parse_arguments(parser, argv, rounds=0, sizes=[64])


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or train as one of the measured processes."""
    arguments = _arguments(argv)
    if arguments.measure is not None:
        seconds = Training(*arguments.measure, arguments.tiny).seconds_per_step()
        if is_first():
            print(f"{SECONDS}{seconds}", flush=True)
        return
    torch.set_num_threads(1)
    about = provenance(tiny=arguments.tiny)
    rows = []
    for size in arguments.sizes:
        figures = {str(n): Training(n, size, arguments.tiny).cells_per_second for n in (1, 2)}
        found = measure_in_turn(figures, arguments.rounds)
        one, two = (f"{float(np.median(found[n])):,.0f}" for n in ("1", "2"))
        overhead = 1e3 * size * float(np.median(1 / found["2"] - 0.5 / found["1"]))
        rows.append([f"{size:,}", one, two, f"{ratio(found['2'], found['1']):.2f}", ">= 1.6", f"{overhead:.0f} ms"])
    columns = [
        "cells of a minibatch",
        "one process, cells/s",
        "two processes, cells/s",
        "ratio",
        "target",
        "step beyond half of one process's",
    ]
    title = "processes: two of one thread each against one, 2,000 features, 512 hidden units"
    show(title, f"{about}\n\n{markdown_table(columns, rows)}", arguments.output)


if __name__ == "__main__":
    main()
