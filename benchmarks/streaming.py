"""Reading, training and memory of cells that stay in their files: ``python -m benchmarks.streaming``; see README.md in this folder."""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded, and only by the command, so that an import sets nothing.
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import sys
import tracemalloc
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anndata as ad
import h5py
import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.provenance import ROOT, provenance
from benchmarks.real_cells import cells_to_draw
from benchmarks.resampled import peak_memory, peak_memory_here, write_resampled
from benchmarks.tables import markdown_table, show
from benchmarks.timing import Figure, LightningSteps, measure_in_turn, ratio
from benchmarks.tiny import parse_arguments
from scalex import RnaRecipe, ScalexDataModule, ScalexModule
from scalex.cells import AnnDataSource, Cells
from scalex.data import draw_minibatches, plan_buffers
from scalex.data.datamodule import RUN_ROWS
from scalex.data.sizes import BUFFER_MINIBATCHES, BUFFER_ROWS
from scalex.model.trained_on import TrainedOn
from scalex.runs.log import log_to
from scalex.system.memory import keep_freed_memory
from scalex.system.read_ahead import read_ahead
from scalex.training.input_cache import InputCache

SEED = 124
BATCH_SIZE = 256
# Rows of a piece of a file that is read from its beginning to its end.
PIECE = 4096
N_FILES = 4
PUBLISHED_CELLS = 100_000

Table = tuple[str, Sequence[str], list[list[str]]]


@dataclass(frozen=True)
class Options:
    """The extent of the measurements.

    Attributes
    ----------
    real
        Cells to draw from.
    rounds
        Number of times that each speed is measured.
    cells
        Number of cells whose reading is measured.
    sizes
        Numbers of cells for which the memory of training is compared.
    steps
        Number of training steps in a round.
    plan_cells
        Number of cells whose order is planned.
    published
        Interpreter that has the published package.
    tiny
        Compute no UMAP, and compare the memory without new processes.
    """

    real: ad.AnnData
    rounds: int
    cells: int
    sizes: tuple[int, ...]
    steps: int
    plan_cells: int
    published: str | None
    tiny: bool


def reading(options: Options, folder: Path) -> Table:
    """Compare shuffled minibatches of all features with the same file from its beginning to its end."""
    rows = []
    for compression in (None, "gzip"):
        path = folder / f"{compression or 'plain'}.h5ad"
        write_resampled(options.real, options.cells, path, compression=compression)
        cells = _open_files([path])
        domain = cells.domain.codes.astype(np.int64)
        found = measure_in_turn(
            {
                "front": _measure_speed(options.cells, _read_front_to_back, path),
                "pieces": _measure_speed(options.cells, _read_pieces, cells, options.cells),
                "shuffled": _measure_speed(options.cells, _read_shuffled, cells, domain),
            },
            options.rounds,
        )
        # These are measured separately, since memory from the page cache is slow to get, above all on virtual machines.
        cold = measure_in_turn(
            {
                "front": _measure_cold(path, _measure_speed(options.cells, _read_front_to_back, path)),
                "shuffled": _measure_cold(path, _measure_speed(options.cells, _read_shuffled, cells, domain)),
            },
            options.rounds,
        )
        # The worst order is one domain after the other.
        ordered = np.sort(domain)
        full = _compute_entropy(ordered, draw_minibatches(ordered, BATCH_SIZE, "shuffle", _make_rng()))
        entropy = f"{_compute_entropy(ordered, _plan_minibatches(ordered)) / full:.3f}"
        kind = compression or "uncompressed"
        rows += [
            [kind, "front to back, h5py alone", _format_median(found["front"]), "1", "", ""],
            [kind, "front to back, as CSR", _format_median(found["pieces"]), f"{ratio(found['pieces'], found['front']):.2f}", "", ""],
            [
                kind,
                "shuffled minibatches",
                _format_median(found["shuffled"]),
                f"{ratio(found['shuffled'], found['front']):.2f}",
                ">= 0.6",
                entropy,
            ],
        ]
        of_front = f"{ratio(cold['shuffled'], cold['front']):.2f}"
        rows += [
            [kind, "front to back, not in the page cache", _format_median(cold["front"]), "1", "", ""],
            [kind, "shuffled minibatches, not in the page cache", _format_median(cold["shuffled"]), of_front, "", ""],
        ]
        path.unlink()
    columns = ["file", "what", "cells/s (median)", "of front to back", "target", "domain entropy, of a full shuffle's"]
    return f"reading: {options.cells:,} cells, all {options.real.n_vars:,} features, minibatches of {BATCH_SIZE}", columns, rows


def fitting(options: Options, folder: Path) -> Table:
    """Compare the pass of the recipe, embedding and training from files with reading and with cells in memory."""
    rows = []
    for compression in (None, "gzip"):
        path = folder / f"{compression or 'plain'}.h5ad"
        write_resampled(options.real, options.cells, path, compression=compression)
        backed, memory = _open_files([path]), AnnDataSource(path=path, batch_key="batch").open()
        recipe = RnaRecipe(min_features=100)
        fitted = recipe.fit(backed)
        modules = {}
        for name, cells in (("memory", memory), ("backed", backed), ("cache", backed)):
            data = ScalexDataModule(cells, fitted, batch_size=BATCH_SIZE, seed=SEED)
            data.setup("fit")
            if name == "cache":
                cache = InputCache(folder, path.name)
                cache.write(data)
                data.read_inputs_from(cache.open_inputs())
            module = ScalexModule(lr=1e-3, n_latent=30, n_hidden=512, seed=SEED)
            module.set_trained_on(TrainedOn(data.preprocessor, len(data.rows), version("scalex")), data)
            modules[name] = LightningSteps(module, data, options.steps)
        found = measure_in_turn(
            {
                "front": _measure_speed(options.cells, _read_front_to_back, path),
                "recipe": _measure_speed(options.cells, recipe.fit, backed),
                "embed": _measure_speed(options.cells, _embed, modules["backed"]),
                "memory": modules["memory"].cells_per_second,
                "backed": modules["backed"].cells_per_second,
                "cache": modules["cache"].cells_per_second,
                "read cache": _measure_speed(len(fitted.rows), _read_dense_minibatches, modules["cache"].data),
            },
            options.rounds,
        )
        kind = compression or "uncompressed"
        rows += [
            [kind, "front to back, h5py alone", _format_median(found["front"]), "", ""],
            [kind, "recipe", _format_median(found["recipe"]), f"{ratio(found['recipe'], found['front']):.2f} of front to back", ">= 0.5"],
            [kind, "embedding", _format_median(found["embed"]), f"{ratio(found['embed'], found['front']):.2f} of front to back", ">= 0.7"],
            [kind, "training, in memory", _format_median(found["memory"]), "", ""],
            [
                kind,
                "training, from the file",
                _format_median(found["backed"]),
                f"{ratio(found['backed'], found['memory']):.2f} of in memory",
                "",
            ],
            [
                kind,
                "training, from the cache",
                _format_median(found["cache"]),
                f"{ratio(found['cache'], found['memory']):.2f} of in memory",
                ">= 0.9",
            ],
            [kind, "dense minibatches from the cache", _format_median(found["read cache"]), "", ">= 100,000 cells/s"],
        ]
        path.unlink()
    columns = ["file", "what", "cells/s (median)", "ratio", "target"]
    return f"work on {options.cells:,} cells in a file, minibatches of {BATCH_SIZE}, 2,000 features, 512 hidden units", columns, rows


def memory(options: Options, folder: Path) -> Table:
    """Measure the peak memory of the whole of train.py, with several uncompressed files."""
    peaks, rows = [], []
    for n_cells in options.sizes:
        paths = []
        for i in range(N_FILES):
            paths.append(folder / f"{i}.h5ad")
            first, last = (n_cells * j // N_FILES for j in (i, i + 1))
            write_resampled(options.real, last - first, paths[-1], seed=SEED + i, first=first)
        settings = [
            "dataset=h5ad", f"dataset.path=[{','.join(map(str, paths))}]", "dataset.backed=true", "preprocess.min_features=100",
            "model.max_steps=300", "max_cells=20000", "trainer=cpu", f"output={folder}/run-{n_cells}",
        ]  # fmt: skip
        script, start = ROOT / "train.py", perf_counter()
        if options.tiny:
            # numba compiles for half a minute before the first neighbours and the first UMAP.
            peaks.append(peak_memory_here(script, [*settings, "model.max_steps=4", "callbacks=[checkpoint,latent_export]"]))
        else:
            peaks.append(peak_memory([sys.executable, str(script), *settings]))
        seconds = perf_counter() - start
        rows.append([f"{n_cells:,}", f"{peaks[-1]:,.0f} MB", f"{peaks[-1] / peaks[0]:.2f}", "< 4,000 MB; <= 1.10", f"{seconds:,.0f}"])
        for path in paths:
            path.unlink()
    if options.published is not None:
        path = folder / "published.h5ad"
        write_resampled(options.real, PUBLISHED_CELLS, path)
        start = perf_counter()
        # With -I, the interpreter finds its own scalex instead of this one in PYTHONPATH.
        script = ROOT / "benchmarks" / "peers" / "published.py"
        command = [options.published, "-I", str(script), str(path), str(folder / "latents.npz"), "1", "100", "short"]
        peak = peak_memory(command)
        seconds = perf_counter() - start
        rows.append([f"{PUBLISHED_CELLS:,}, published package", f"{peak:,.0f} MB", "", "", f"{seconds:,.0f}"])
    columns = ["cells", "peak resident memory", "of the first", "target", "whole command, s"]
    return f"memory of train.py: cells of {options.real.n_vars:,} features in {N_FILES} files, 300 steps, max_cells=20000", columns, rows


def plan(options: Options, folder: Path) -> Table:
    """Measure time and memory of the plan of an epoch of many cells."""
    n_cells = options.plan_cells
    tracemalloc.start()
    start = perf_counter()
    domain = _make_rng().integers(0, 100, n_cells)
    n_rows = sum(len(buffer.rows) for buffer in _plan_buffers(domain))
    seconds = perf_counter() - start
    peak = tracemalloc.get_traced_memory()[1] / 1e6
    tracemalloc.stop()
    assert n_rows == n_cells
    row = [f"{n_cells:,}", f"{seconds:.1f} s", "<= 30 s", f"{peak:,.0f} MB", "<= 1,000 MB"]
    return "plan of an epoch", ["cells", "time", "target", "memory", "target"], [row]


def _open_files(paths: Sequence[Path]) -> Cells:
    return AnnDataSource(path=[str(path) for path in paths], batch_key="batch", source_key="file", backed=True).open()


def _make_rng() -> np.random.Generator:
    return np.random.default_rng(SEED)


def _measure_speed(n_cells: int, work: Callable[..., Iterator[Any] | object], *arguments: Any) -> Figure:
    """Return a figure: the cells per second of work on all cells. Values that it yields are discarded."""

    def measure() -> float:
        start = perf_counter()
        result = work(*arguments)
        if isinstance(result, Iterator):
            for _ in result:
                pass
        return n_cells / (perf_counter() - start)

    return measure


def _measure_cold(path: Path, figure: Figure) -> Figure:
    """Return the figure of a file that the system has to read from the disk."""

    def measure() -> float:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        return figure()

    return measure


def _read_front_to_back(path: Path) -> Iterator[Any]:
    """Yield the stored values and columns, in large pieces and in order."""
    with h5py.File(path) as file:
        pointer = file["X/indptr"][:]
        for start in range(0, len(pointer) - 1, PIECE):
            stored = slice(pointer[start], pointer[min(start + PIECE, len(pointer) - 1)])
            yield file["X/data"][stored], file["X/indices"][stored]


def _read_pieces(cells: Cells, n_cells: int) -> Iterator[Any]:
    for start in range(0, n_cells, PIECE):
        yield cells.read(slice(start, min(start + PIECE, n_cells)))


def _plan_buffers(domain: NDArray[np.int64]) -> Iterator[Any]:
    return plan_buffers(
        domain, BATCH_SIZE, "shuffle", _make_rng(), run_rows=RUN_ROWS, buffer_minibatches=max(BUFFER_MINIBATCHES, BUFFER_ROWS // BATCH_SIZE)
    )


def _plan_minibatches(domain: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for buffer in _plan_buffers(domain):
        for position in buffer.minibatches:
            yield buffer.rows[position]


def _read_shuffled(cells: Cells, domain: NDArray[np.int64]) -> Iterator[sparse.csr_matrix]:
    """Yield minibatches in the order of training, but sparse and with all features."""
    for buffer, matrix in read_ahead(_plan_buffers(domain), lambda buffer: cells.read(buffer.rows)):
        for position in buffer.minibatches:
            yield matrix[position]


def _compute_entropy(domain: NDArray[np.int64], rows: Any) -> float:
    """Return the mean entropy of the domain in a minibatch."""
    share = np.stack([np.bincount(domain[one], minlength=domain.max() + 1) / len(one) for one in rows])
    return float(-(share * np.log(np.where(share > 0, share, 1))).sum(1).mean())


def _read_dense_minibatches(data: ScalexDataModule) -> Iterator[Any]:
    """Yield the dense minibatches of training."""
    for batch in data.train_dataloader():
        yield batch._replace(rows=batch.rows.dense())


def _embed(run: LightningSteps) -> None:
    run.data.setup("predict")
    for _ in run.module.embed(run.data.batches()):
        pass


def _format_median(values: NDArray[np.float64]) -> str:
    return f"{float(np.median(values)):,.0f}"


BENCHMARKS = {f.__name__: f for f in (reading, fitting, memory, plan)}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help="some of the benchmarks")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the tables to")
    parser.add_argument("--rounds", type=int, default=3, help="times that each speed is measured")
    parser.add_argument("--cells", type=int, default=50_000, help="cells whose reading is measured")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250_000, 1_000_000], help="cells whose training's memory is compared")
    parser.add_argument("--steps", type=int, default=150, help="training steps in a round")
    parser.add_argument("--plan-cells", type=int, default=10_000_000, help="cells whose order is made")
    parser.add_argument("--published", metavar="PYTHON", help="interpreter that has the published package, for its memory")
    parser.add_argument("--scratch", type=Path, help="folder for large temporary files: 9 GB for a million cells")
    return parse_arguments(parser, argv, rounds=0, cells=600, sizes=[400], steps=2, plan_cells=10_000)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected benchmarks and show a table for each."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    about = provenance(tiny=arguments.tiny)
    keep_freed_memory()
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    options = Options(
        cells_to_draw(tiny=arguments.tiny),
        rounds=arguments.rounds,
        cells=arguments.cells,
        sizes=tuple(arguments.sizes),
        steps=arguments.steps,
        plan_cells=arguments.plan_cells,
        published=arguments.published,
        tiny=arguments.tiny,
    )
    for name in arguments.only:
        with log_to(None), TemporaryDirectory(dir=arguments.scratch) as folder:
            title, columns, rows = BENCHMARKS[name](options, Path(folder))
        show(title, f"{about}\n\n{markdown_table(columns, rows)}", arguments.output)


if __name__ == "__main__":
    main()
