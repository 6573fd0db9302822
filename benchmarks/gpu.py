"""Training, embedding and a whole run on a GPU: ``python -m benchmarks.gpu``; see README.md in this folder."""

from __future__ import annotations

import argparse
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from scipy import sparse
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from benchmarks.peer_speed import measure_loop, write_cells
from benchmarks.provenance import ROOT, provenance
from benchmarks.synthetic import N_FEATURES, make_counts, make_data, make_module, repeat_minibatches
from benchmarks.tables import markdown_table, show
from benchmarks.timing import WARM_UP, Figure, LightningSteps
from benchmarks.tiny import parse_arguments
from scalex import ScalexDataModule, ScalexModule
from scalex.nn import DomainBatchNorm, MinibatchCounts
from scalex.runs.log import log_to

N_DOMAINS = 5
# The network of model=scalex.
NETWORK = {"n_latent": 30, "n_hidden": 512, "likelihood": "negative_binomial"}
# Cells that are made; more are repetitions of them.
N_MADE = 100_000
SEED = 124
# First words of the lines of the log that begin a phase of a run.
PHASES = (
    ("Read", "read"), ("Keeps", "fit the preprocessing"), ("Model:", "train, with corrections"), ("Trained", "embed"),
    ("Neighbours", "neighbours and clusters"), ("UMAP", "UMAP"), ("Wrote", "scores, figures, report and result"),
)  # fmt: skip

Row = tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """The extent of the measurements.

    Attributes
    ----------
    device
        "cuda", or "cpu" to try the command on a machine without a GPU.
    cells
        Numbers of cells to train on.
    sizes
        Numbers of cells in a minibatch.
    steps
        Steps of a measurement.
    features
        Features of the cells.
    published, scvi
        Interpreters that have the published package and scvi-tools; None: not measured.
    """

    device: str
    cells: list[int]
    sizes: list[int]
    steps: int
    features: int
    published: str | None = None
    scvi: str | None = None


def training(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Measure training in Lightning, and the matrix products without which no step can be."""
    rows: list[Row] = []
    for n_cells in options.cells:
        for size in options.sizes:
            data = _make_data(n_cells, size, options.features)
            _forget_memory(options.device)
            speed = LightningSteps(make_module(data, **NETWORK), data, options.steps, accelerator=options.device).cells_per_second()
            products = size / _time(_make_products(size, options), options)
            rows.append((
                f"{n_cells:,}", f"{size:,}", f"{speed:,.0f}", f"{products:,.0f}", f"{products / speed:.1f}x", _peak_memory(options.device),
            ))  # fmt: skip
    columns = ("cells", "minibatch", "cells/s in training", "cells/s of the matrix products alone", "ratio", "peak memory")
    return f"training, {options.features:,} features, {NETWORK['n_hidden']} hidden units, {N_DOMAINS} domains", columns, rows


def peers(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Measure the training of other packages on the same cells, at the smallest and at a large minibatch."""
    rows: list[Row] = []
    with TemporaryDirectory() as folder:
        path, n_cells = Path(folder) / "cells.h5ad", min(options.cells)
        write_cells(_make_data(n_cells, options.sizes[0], options.features), path)
        for size in dict.fromkeys((options.sizes[0], options.sizes[-1])):
            _forget_memory(options.device)
            data = _make_data(n_cells, size, options.features)
            ours = LightningSteps(make_module(data, **NETWORK), data, options.steps, accelerator=options.device).cells_per_second
            loop = (path, options.steps, WARM_UP, size, options.device)
            figures: dict[str, Figure | None] = {
                "scalex": ours,
                "published package": options.published and measure_loop("--published", options.published, "published_loop.py", *loop),
                "scVI": options.scvi and measure_loop("--scvi", options.scvi, "scvi_loop.py", path, 2, size, options.device),
            }
            found = {name: None if figure is None else figure() for name, figure in figures.items()}
            for name, speed in found.items():
                if speed is None:
                    rows.append((f"{size:,}", name, f"not measured (--{'scvi' if name == 'scVI' else 'published'})", "-"))
                else:
                    rows.append((f"{size:,}", name, f"{speed:,.0f}", f"{found['scalex'] / speed:.1f}x"))
    return f"peers: training on {n_cells:,} cells", ("minibatch", "package", "cells/s", "scalex, times its speed"), rows


def step(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Count what the program waits for in a step, and the kernels that it starts."""
    rows: list[Row] = []
    for size in options.sizes:
        for place in ("host", "GPU"):
            data = _make_data(min(options.cells), size, options.features)
            if place == "GPU":
                data.keep_inputs_on(torch.device(options.device))
            run = _make_step(make_module(data, **NETWORK), data, options)
            seconds = _time(run, options)
            counts = _count_waits(run, options), _count_kernels(run, options)
            rows.append((f"{size:,}", place, f"{seconds * 1e3:.2f} ms", f"{size / seconds:,.0f}", *counts))
    columns = ("minibatch", "inputs in memory of", "step without Lightning", "cells/s", "waits for the GPU in a step", "kernels in a step")
    return "step: gather, send, forward, loss, backward and Adam", columns, rows


def precision(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Compare single with mixed precision."""
    rows: list[Row] = []
    for size in options.sizes:
        data = _make_data(min(options.cells), size, options.features)
        speeds = [
            LightningSteps(make_module(data, **NETWORK), data, options.steps, precision=name, accelerator=options.device).cells_per_second()
            for name in ("32-true", "bf16-mixed")
        ]
        rows.append((f"{size:,}", *(f"{speed:,.0f}" for speed in speeds), f"{speeds[1] / speeds[0]:.2f}x"))
    return "precision: cells/s in training", ("minibatch", "32-true", "bf16-mixed", "ratio"), rows


def compiled(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Compare compiled steps with others, at the smallest and at a large minibatch: each compilation takes half a minute."""
    rows: list[Row] = []
    for size in dict.fromkeys((options.sizes[0], options.sizes[-1])):
        data = _make_data(min(options.cells), size, options.features)
        speeds = [
            LightningSteps(
                make_module(data, compile_step=compiles, **NETWORK), data, options.steps, accelerator=options.device
            ).cells_per_second()
            for compiles in (False, True)
        ]
        rows.append((f"{size:,}", *(f"{speed:,.0f}" for speed in speeds), f"{speeds[1] / speeds[0]:.2f}x"))
    return "compiled: cells/s in training", ("minibatch", "as is", "compiled", "ratio"), rows


def dsbn(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Compare the batch norm with many and with few known domains."""
    size, rows = max(options.sizes), []
    generator = torch.Generator().manual_seed(SEED)
    times = []
    for n_domains in (2, 1000):
        norm = DomainBatchNorm(options.features, n_domains).to(options.device)
        domain_C = torch.randint(n_domains, (size,), generator=generator)
        counts = MinibatchCounts.of(domain_C, n_domains).to(torch.device(options.device))
        x_CF = torch.randn(size, options.features, generator=generator).to(options.device).requires_grad_()
        times.append(_time(_make_passes(norm, x_CF, domain_C.to(options.device), counts), options))
        rows.append((f"{n_domains:,}", f"{times[-1] * 1e3:.2f} ms", f"{times[-1] / times[0]:.2f}x"))
    return f"dsbn: forward and backward, {size:,} cells x {options.features:,} features", ("known domains", "time", "ratio"), rows


def embedding(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Measure the embedding of cells in memory, in chunks of 20,000."""
    rows: list[Row] = []
    for n_cells in options.cells:
        data = _make_data(n_cells, 1024, options.features)
        module = make_module(data, **NETWORK).to(options.device).eval()
        times = []
        for _ in range(2):
            start = perf_counter()
            embedded = sum(len(one.latent_CZ) for one in module.embed(data.batches()))
            times.append(perf_counter() - start)
        assert embedded == n_cells
        rows.append((f"{n_cells:,}", f"{n_cells / min(times):,.0f}"))
    return "embedding", ("cells", "cells/s"), rows


def whole(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Measure the phases of ``train.py`` on an uncompressed .h5ad, by the times in its log."""
    n_cells = max(options.cells)
    with TemporaryDirectory() as name:
        folder = Path(name)
        counts = _make_counts(n_cells, np.random.default_rng(SEED), options.features)
        obs = pd.DataFrame({"batch": pd.Categorical(np.arange(n_cells) % N_DOMAINS).astype(str)}, index=np.arange(n_cells).astype(str))
        ad.AnnData(counts, obs=obs).write_h5ad(folder / "cells.h5ad")
        accelerator = "gpu" if options.device == "cuda" else "cpu"
        command = [
            sys.executable, str(ROOT / "train.py"), f"dataset.path={folder}/cells.h5ad", "dataset.batch_key=batch",
            "preprocess.min_features=0", f"trainer={accelerator}", f"output={folder}/run",
        ]  # fmt: skip
        start = datetime.now()
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder, check=False)
        seconds = (datetime.now() - start).total_seconds()
        if done.returncode != 0:
            sys.exit(f"train.py stopped with exit code {done.returncode}:\n{done.stderr}")
        rows = _read_phases((folder / "run" / "log.txt").read_text(), start)
    rows.append(("in all", f"{seconds:.0f} s"))
    return f"whole run: {n_cells:,} cells x {options.features:,} features", ("phase", "time"), rows


def _read_phases(log: str, start: datetime) -> list[Row]:
    """Return the time of each phase of a run, from its first line to that of the next phase."""
    lines = [(datetime.fromisoformat(line[:19]), line.split(" ", 3)[-1]) for line in log.splitlines() if line[:4].isdigit()]
    begun = [("start the program", start)]
    for words, phase in PHASES:
        found = [time for time, text in lines if text.startswith(words) and time >= begun[-1][1].replace(microsecond=0)]
        if found:
            begun.append((phase, found[0]))
    ends = [time for _, time in begun[1:]] + [lines[-1][0]]
    return [(phase, f"{max((end - time).total_seconds(), 0):.0f} s") for (phase, time), end in zip(begun, ends, strict=True)]


def _make_data(n_cells: int, batch_size: int, n_features: int) -> ScalexDataModule:
    """Return a data module of random counts. Above 100,000 cells, they repeat."""
    return make_data(n_cells, n_domains=N_DOMAINS, batch_size=batch_size, n_features=n_features, make=_make_counts)


def _make_counts(n_cells: int, rng: np.random.Generator, n_features: int) -> sparse.csr_matrix:
    made = make_counts(min(n_cells, N_MADE), rng, n_features)
    n_times = -(-n_cells // made.shape[0])
    return sparse.vstack([made] * n_times, format="csr")[:n_cells] if n_times > 1 else made


def _make_products(size: int, options: Options) -> Callable[[], None]:
    """Return a function that computes hidden layer, gradient of its weight, decoder, and its two gradients."""
    n_hidden, n_latent = int(NETWORK["n_hidden"]), int(NETWORK["n_latent"])

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=options.device)

    x_CG, weight_GH, grad_CH = random(size, options.features), random(options.features, n_hidden), random(size, n_hidden)
    z_CZ, weight_ZG, grad_CG = random(size, n_latent), random(n_latent, options.features), random(size, options.features)

    def run() -> None:
        x_CG @ weight_GH
        x_CG.T @ grad_CH
        z_CZ @ weight_ZG
        z_CZ.T @ grad_CG
        grad_CG @ weight_ZG.T

    return run


def _make_passes(norm: DomainBatchNorm, x_CF: Tensor, domain_C: Tensor, counts: MinibatchCounts) -> Callable[[], object]:
    grad_CF, inputs = torch.ones_like(x_CF), [x_CF, *norm.parameters()]
    return lambda: torch.autograd.grad(norm(x_CF, domain_C, counts), inputs, grad_CF)


def _make_step(module: ScalexModule, data: ScalexDataModule, options: Options) -> Callable[[], None]:
    """Return a function that trains on the next minibatch, without Lightning."""
    device = torch.device(options.device)
    module.to(device).train()
    optimizer = torch.optim.Adam(module.vae.parameters(), fused=True)
    generator = torch.Generator(device).manual_seed(SEED)
    minibatches = repeat_minibatches(data)

    def run() -> None:
        batch = data.transfer_batch_to_device(next(minibatches), device, 0)
        assert batch.counts is not None
        optimizer.zero_grad()
        module.losses(batch, batch.counts, generator, 0.5).total.backward()
        optimizer.step()

    return run


def _time(function: Callable[[], object], options: Options) -> float:
    """Return the time of a call, in seconds, over several calls, after which the GPU is waited for once."""
    for _ in range(5):
        function()
    _wait(options.device)
    start = perf_counter()
    for _ in range(options.steps):
        function()
    _wait(options.device)
    return (perf_counter() - start) / options.steps


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def _count_waits(function: Callable[[], object], options: Options) -> str:
    """Return how often a call waits for the GPU, as torch tells it."""
    if options.device != "cuda":
        return "no GPU"
    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            function()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return str(sum("synchroniz" in str(one.message) for one in caught))


def _count_kernels(function: Callable[[], object], options: Options) -> str:
    if options.device != "cuda":
        return "no GPU"
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as profiled:
        function()
        torch.cuda.synchronize()
    return str(sum(event.count for event in profiled.key_averages() if "LaunchKernel" in event.key))


def _forget_memory(device: str) -> None:
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _peak_memory(device: str) -> str:
    return f"{torch.cuda.max_memory_allocated() / 2**20:,.0f} MiB" if device == "cuda" else "no GPU"


BENCHMARKS: dict[str, Callable[[Options], tuple[str, Sequence[str], list[Row]]]] = {
    one.__name__: one for one in (training, peers, step, precision, compiled, dsbn, embedding, whole)
}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help="some of the benchmarks")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the tables to")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: try the command without a GPU")
    parser.add_argument("--cells", type=int, nargs="+", default=[100_000, 1_000_000], help="numbers of cells")
    parser.add_argument("--sizes", type=int, nargs="+", default=[128, 256, 1024, 4096], help="cells in a minibatch")
    parser.add_argument("--steps", type=int, default=300, help="steps of a measurement")
    parser.add_argument("--features", type=int, default=N_FEATURES, help="features of the cells")
    parser.add_argument("--published", metavar="PYTHON", help="interpreter that has the published package")
    parser.add_argument("--scvi", metavar="PYTHON", help="interpreter that has scvi-tools")
    return parse_arguments(parser, argv, device="cpu", cells=[600], sizes=[64], steps=2, features=100)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected benchmarks and show a table for each."""
    arguments = _arguments(argv)
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("torch finds no GPU on this machine. With --device cpu, the command runs without one.")
    device: Any = torch.cuda.get_device_name() if arguments.device == "cuda" else "no GPU"
    about = f"{provenance(tiny=arguments.tiny)}; {device}"
    known = {field.name: getattr(arguments, field.name) for field in fields(Options)}
    options = Options(**known)
    # Lightning advises worker processes, which cells in memory do not need.
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    with log_to(None):
        for name in arguments.only:
            title, columns, rows = BENCHMARKS[name](options)
            show(title, f"{about}\n\n{markdown_table(columns, rows)}", arguments.output)


if __name__ == "__main__":
    main()
