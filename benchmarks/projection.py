"""Speed and memory of projection on one thread: ``python -m benchmarks.projection``; see README.md in this folder."""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded, and only by the command, so that an import sets nothing.
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import json
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from time import perf_counter
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import torch
from lightning import Trainer
from lightning.fabric.utilities.warnings import PossibleUserWarning
from scipy import sparse
from torch import Tensor

import scalex
from benchmarks.provenance import ROOT, provenance
from benchmarks.real_cells import cells_to_draw
from benchmarks.resampled import peak_memory, peak_memory_here, write_resampled
from benchmarks.synthetic import N_FEATURES, make_counts
from benchmarks.tables import markdown_table, show
from benchmarks.timing import Figure, measure_in_turn, ratio
from benchmarks.tiny import parse_arguments
from scalex.cells import AnnDataSource
from scalex.projection.project import embed
from scalex.projection.reference import Reference
from scalex.runs.log import log_to
from scalex.system.memory import keep_freed_memory

SEED = 124
PIECE = 1024


@dataclass(frozen=True)
class Options:
    """The extent of the measurements.

    Attributes
    ----------
    published
        Interpreter that has the published package. If None, it is not measured.
    rounds
        Number of times that each speed is measured.
    cells
        Number of cells to embed.
    sizes
        Numbers of cells for which the memory of the projection is compared.
    tiny
        Use demo cells and references without UMAP, and compare the memory without new processes.
    """

    published: str | None
    rounds: int
    cells: int
    sizes: tuple[int, ...]
    tiny: bool


def speed(options: Options, folder: Path) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Compare the embedding with the published package and with the bare matrix products, in cells per second."""
    rng = np.random.default_rng(SEED)
    query = _make_anndata(make_counts(options.cells, rng), rng)
    reference = _train_reference(query[:1000].copy(), folder / "reference", tiny=options.tiny)
    source = AnnDataSource(path=query)
    products, published = "two matrix products", "published package, from ready inputs"
    figures: dict[str, Figure] = {"scalex": _measure_seconds(lambda: embed(reference, source, _make_trainer("32-true")))}
    figures["scalex, bf16-mixed"] = _measure_seconds(lambda: embed(reference, source, _make_trainer("bf16-mixed")))
    figures[products] = _measure_seconds(_make_matrix_products(options.cells))
    if options.published is not None:
        figures[published] = _measure_published(options.published, reference, query, folder / "inputs.h5ad")
    found = measure_in_turn(figures, options.rounds)
    rows = [
        (
            "scalex",
            *_format_figures(found, "scalex", products, published, options.cells),
            "<= 1.5x of the products, >= 10x the published package",
        )
    ]
    rows += [(name, *_format_figures(found, name, products, published, options.cells), "") for name in found if name != "scalex"]
    if options.published is None:
        rows.append((published, "not measured (--published)", "", "", ""))
    title = f"embedding {options.cells:,} sparse cells in memory, {N_FEATURES:,} features, reading and preprocessing included"
    return title, ("what", "cells/s (median)", "time / products", "speed / published", "target"), rows


def memory(options: Options, folder: Path) -> tuple[str, tuple[str, ...], list[tuple[str, ...]]]:
    """Compare the peak memory of `python project.py` for few and for many cells."""
    real = cells_to_draw(tiny=options.tiny)
    _train_reference(real, folder / "reference", tiny=options.tiny)
    rows, megabytes = [], []
    for n_cells in options.sizes:
        query = folder / f"query-{n_cells}.h5ad"
        write_resampled(real, n_cells, query)
        start = perf_counter()
        megabytes.append(_measure_peak(folder, query, tiny=options.tiny))
        seconds = perf_counter() - start
        query.unlink()
        share = f"{megabytes[-1] / megabytes[0]:.2f}"
        target = "" if len(rows) == 0 else "<= 1.10"
        rows.append((f"{n_cells:,}", f"{megabytes[-1]:,.0f} MB", share, target, f"{n_cells / seconds:,.0f}"))
    stored = real.X.nnz / real.n_obs
    title = f"memory of project.py repeat=true: cells of {real.n_vars:,} features, {stored:,.0f} values each, from an .h5ad file"
    return title, ("cells", "peak resident memory", "of the first", "target", "cells/s, whole command"), rows


def _make_anndata(counts: sparse.csr_matrix, rng: np.random.Generator) -> ad.AnnData:
    n_cells, n_features = counts.shape
    obs = pd.DataFrame({"batch": pd.Categorical.from_codes(rng.integers(3, size=n_cells), ["a", "b", "c"])})
    obs.index = [f"cell-{i}" for i in range(n_cells)]
    return ad.AnnData(counts, obs=obs, var=pd.DataFrame(index=[f"gene-{i}" for i in range(n_features)]))


def _train_reference(cells: ad.AnnData, folder: Path, *, tiny: bool) -> Reference:
    """Return a model after a few steps, since speed and memory do not depend on its quality."""
    scalex.SCALEX(
        cells,
        outdir=folder,
        max_iteration=20,
        min_features=0,
        min_cells=1,
        n_top_features=N_FEATURES,
        eval=True,
        # numba compiles for half a minute before the first UMAP.
        ignore_umap=tiny,
        show=False,
    )
    return Reference.load(folder)


def _make_trainer(precision: Any) -> Trainer:
    return Trainer(
        accelerator="cpu",
        precision=precision,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _measure_seconds(run: Callable[[], object]) -> Figure:
    def measure() -> float:
        start = perf_counter()
        run()
        return perf_counter() - start

    return measure


def _make_matrix_products(n_cells: int) -> Callable[[], object]:
    """Return a function that computes hidden layer and heads of all cells from dense rows, in pieces that fit the cache."""
    generator = torch.Generator().manual_seed(SEED)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x_CG, weight_GH, weight_HZ = random(PIECE, N_FEATURES), random(N_FEATURES, 1024), random(1024, 20)

    def run() -> None:
        for start in range(0, n_cells, PIECE):
            x_CG[: min(PIECE, n_cells - start)] @ weight_GH @ weight_HZ

    return run


def _measure_published(interpreter: str, reference: Reference, query: ad.AnnData, path: Path) -> Figure:
    """Return a figure: the seconds in which the published package embeds the inputs of the query, which are written to `path`."""
    transform = reference.trained_on.preprocessor.for_features(query.var_names)
    inputs = transform(query.X, query.obs["batch"].cat.codes.to_numpy().astype(np.int64))
    ad.AnnData(inputs, obs=query.obs).write_h5ad(path)
    # With -I, the interpreter finds its own scalex instead of this one in PYTHONPATH or the folder.
    command = [interpreter, "-I", str(Path(__file__).parent / "peers" / "published_embed.py"), str(path)]

    def measure() -> float:
        process = subprocess.run(command, capture_output=True, text=True, check=False)
        if process.returncode != 0:
            sys.exit(f"--published {interpreter}: published_embed.py stopped with exit code {process.returncode}:\n{process.stderr}")
        return query.n_obs / float(json.loads(process.stdout.splitlines()[-1])["cells_per_second"])

    return measure


def _format_figures(found: dict[str, Any], name: str, products: str, published: str, cells: int) -> tuple[str, str, str]:
    seconds = found[name]
    speed_ratio = f"{ratio(found[published], seconds):.1f}x" if published in found else ""
    return f"{cells / float(np.median(seconds)):,.0f}", f"{ratio(seconds, found[products]):.2f}x", speed_ratio


def _measure_peak(folder: Path, query: Path, *, tiny: bool) -> float:
    """Return the peak resident memory, in MB, of one projection."""
    with TemporaryDirectory(dir=folder) as output:
        settings = [f"reference={folder / 'reference'}", f"dataset.path={query}", "repeat=true", "trainer=cpu", f"output={output}/run"]
        script = ROOT / "project.py"
        return peak_memory_here(script, settings) if tiny else peak_memory([sys.executable, str(script), *settings])


BENCHMARKS = {f.__name__: f for f in (speed, memory)}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--published", metavar="PYTHON", help="interpreter that has the published package")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help="some of the benchmarks")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the tables to")
    parser.add_argument("--rounds", type=int, default=5, help="times that each speed is measured")
    parser.add_argument("--cells", type=int, default=10_000, help="cells to embed")
    parser.add_argument("--sizes", type=int, nargs="+", default=[100_000, 1_000_000], help="cells whose projection's memory is compared")
    parser.add_argument("--scratch", type=Path, help="folder for large temporary files")
    return parse_arguments(parser, argv, rounds=0, cells=600, sizes=[200])


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected benchmarks and show a table for each."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    about = provenance(tiny=arguments.tiny)
    keep_freed_memory()
    options = Options(arguments.published, arguments.rounds, arguments.cells, tuple(arguments.sizes), arguments.tiny)
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    for name in arguments.only:
        with log_to(None), TemporaryDirectory(dir=arguments.scratch) as folder:
            title, columns, rows = BENCHMARKS[name](options, Path(folder))
        show(title, f"{about}\n\n{markdown_table(columns, rows)}", arguments.output)


if __name__ == "__main__":
    main()
