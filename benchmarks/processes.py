"""Training on two processes of one thread each, against one: ``python -m benchmarks.processes``; see README.md beside this file."""

from __future__ import annotations

import os

# Before the imports: libraries read these when they are loaded.
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["MKL_NUM_THREADS"] = "1"
os.environ["OPENBLAS_NUM_THREADS"] = "1"
os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import subprocess
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import anndata as ad
import numpy as np
import torch
from hydra.utils import instantiate
from lightning.fabric.utilities.warnings import PossibleUserWarning
from omegaconf import OmegaConf

from benchmarks.tables import circumstances, markdown_table, show
from benchmarks.timing import LightningSteps, interleaved, ratio
from scalex import RnaRecipe, ScalexDataModule, ScalexModule
from scalex.cells import AnnDataSource
from scalex.memory import keep_freed_memory
from scalex.processes import process_rank
from scalex.trained_on import TrainedOn

ROOT = Path(__file__).resolve().parents[1]
SEED = 124
BATCH_SIZES = (256, 1024, 4096)
# Cells of an epoch, drawn from the real ones, so that what happens between epochs does not count.
N_CELLS = 65_536
STEP_CELLS = 200_000
LEAST_STEPS = 30


def measure(n_processes: int, batch_size: int) -> None:
    """Train as conf/trainer/ddp.yaml says and print the seconds of a step; run in each of the processes, which Lightning starts alike."""
    torch.set_num_threads(1)
    keep_freed_memory()
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    data = Path(os.environ.get("SCALEX_DATA", ROOT.parent / "shared" / "data"))
    real = ad.read_h5ad(data / "hemato_tusi.h5ad")
    drawn = real[np.random.default_rng(SEED).choice(real.n_obs, N_CELLS)].copy()
    drawn.obs_names_make_unique()
    cells = AnnDataSource(path=drawn, batch_key="batch").open()
    module_data = ScalexDataModule(cells, RnaRecipe(min_features=100).fit(cells), batch_size=batch_size, seed=SEED)
    module = ScalexModule(n_latent=30, n_hidden=512, lr=1e-3, seed=SEED)
    module.set_trained_on(TrainedOn(module_data.preprocessor, len(module_data.rows), version("scalex")))
    strategy = instantiate(OmegaConf.load(ROOT / "conf" / "trainer" / "ddp.yaml").strategy) if n_processes > 1 else "auto"
    n_steps = max(LEAST_STEPS, STEP_CELLS // batch_size)
    seconds = LightningSteps(module, module_data, n_steps, devices=n_processes, strategy=strategy).seconds_per_step()
    if process_rank() == 0:
        print(f"seconds per step: {seconds}", flush=True)


def cells_per_second(n_processes: int, batch_size: int) -> float:
    """The same from outside."""
    command = [sys.executable, "-m", "benchmarks.processes", "--measure", str(n_processes), str(batch_size)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    line = next(line for line in done.stdout.splitlines() if line.startswith("seconds per step: "))
    return batch_size / float(line.split(": ")[1])


def main() -> None:
    """Measure, or be one of those that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the table to")
    parser.add_argument("--rounds", type=int, default=3, help="times that each speed is measured")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(BATCH_SIZES), help="sizes of minibatches")
    parser.add_argument("--measure", type=int, nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure is not None:
        measure(*arguments.measure)
        return
    torch.set_num_threads(1)
    rows = []
    for size in arguments.sizes:
        found = interleaved({n: lambda n=n, size=size: cells_per_second(int(n), size) for n in ("1", "2")}, arguments.rounds)
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
    show(title, f"{circumstances()}\n\n{markdown_table(columns, rows)}", arguments.output)


if __name__ == "__main__":
    main()
