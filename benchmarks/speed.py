"""Speed of training and its parts on one thread: ``python -m benchmarks.speed``; see README.md in this folder."""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded, and only by the command, so that an import sets nothing.
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["MKL_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from lightning.fabric.utilities.warnings import PossibleUserWarning
from numpy.typing import NDArray
from torch import Tensor, nn

from benchmarks.peer_speed import measure_loop, write_cells
from benchmarks.provenance import provenance
from benchmarks.synthetic import N_FEATURES, make_counts, make_data, make_module, repeat_minibatches
from benchmarks.tables import markdown_table, show
from benchmarks.timing import WARM_UP, Figure, LightningSteps, measure_in_turn, ratio, seconds_per_call
from benchmarks.tiny import parse_arguments
from scalex.data import CellBatch, InputDataset
from scalex.nn import VAE, DomainBatchNorm, MinibatchCounts, draw_noise, kl_divergence, reconstruction_loss
from scalex.runs.log import log_to
from scalex.system.memory import keep_freed_memory

COLUMNS = ("what", "time or cells/s (median)", "ratio", "target")
N_DOMAINS = 5
N_HIDDEN = 1024
N_LATENT = 10
# Cells of a minibatch, except in the comparison with the published package, which uses 64.
BATCH_SIZE = 256
SEED = 124


@dataclass(frozen=True)
class Options:
    """The extent of the measurements and the comparison.

    Attributes
    ----------
    published
        Interpreter that has the published package. If None, it is not measured.
    rounds
        Number of times that each figure is measured.
    steps
        Number of training steps, or calls, in a round.
    cells
        Number of cells to train on.
    gather_cells
        Number of cells to gather minibatches from.
    features
        Number of features of the cells.
    """

    published: str | None
    rounds: int
    steps: int
    cells: int
    gather_cells: int
    features: int


Row = tuple[str, str, str, str]
Benchmark = Callable[[Options], tuple[str, list[Row]]]


def training(options: Options) -> tuple[str, list[Row]]:
    """Compare the training with that of the published package, in cells per second."""
    data = make_data(options.cells, n_domains=N_DOMAINS, batch_size=64, n_features=options.features)
    ours, published = "scalex, Lightning", "published package"
    figures: dict[str, Figure] = {ours: LightningSteps(make_module(data), data, options.steps).cells_per_second}
    title = f"training: minibatches of 64 cells x {options.features:,} features, {N_DOMAINS} domains, {options.cells:,} cells"
    target = ">= 3x the published package"
    if options.published is None:
        found = measure_in_turn(figures, options.rounds)
        return title, [(ours, _format_speed(found[ours]), "", target), (published, "not measured (--published)", "", "")]
    with TemporaryDirectory() as folder:
        path = Path(folder) / "cells.h5ad"
        write_cells(data, path)
        figures[published] = measure_loop("--published", options.published, "published_loop.py", path, options.steps, WARM_UP, 64, "cpu")
        found = measure_in_turn(figures, options.rounds)
    times = f"{ratio(found[ours], found[published]):.2f}x"
    return title, [(ours, _format_speed(found[ours]), times, target), (published, _format_speed(found[published]), "1", "")]


def step(options: Options) -> tuple[str, list[Row]]:
    """Compare a training step with its unavoidable matrix products."""
    data = make_data(options.cells, n_domains=N_DOMAINS, batch_size=BATCH_SIZE, n_features=options.features)
    products = "three matrix products"
    figures = {
        "Lightning step": LightningSteps(make_module(data), data, options.steps).seconds_per_step,
        "bare loop, with gathering": seconds_per_call(_make_bare_step(repeat_minibatches(data), options.features), options.steps),
        "bare loop, one minibatch": seconds_per_call(
            _make_bare_step(itertools.repeat(next(repeat_minibatches(data))), options.features), options.steps
        ),
        products: seconds_per_call(_make_matrix_products(options.features), options.steps),
    }
    found = measure_in_turn(figures, options.rounds)
    title = f"step: {BATCH_SIZE} cells x {options.features:,} features, {N_HIDDEN:,} hidden units, {N_DOMAINS} domains"
    return title, _compare(found, products, {"Lightning step": "<= 1.5x"})


def dsbn(options: Options) -> tuple[str, list[Row]]:
    """Compare domain-specific batch norm with many known domains and with few."""
    norms = {"DomainBatchNorm": DomainBatchNorm, "loop of BatchNorm1d (as the published package)": LoopOfBatchNorms}
    title = f"dsbn: forward and backward, {BATCH_SIZE} cells x {options.features:,} features, domains drawn uniformly"
    figures = {
        f"{name}, {n_domains:,} known domains": seconds_per_call(
            _make_passes(make(options.features, n_domains), n_domains, options.features), options.steps
        )
        for name, make in norms.items()
        for n_domains in (2, 1000)
    }
    found = measure_in_turn(figures, options.rounds)
    rows = []
    for name in norms:
        few, many = (f"{name}, {n_domains:,} known domains" for n_domains in (2, 1000))
        target = "<= 2x" if name == "DomainBatchNorm" else ""
        rows += _compare({many: found[many], few: found[few]}, few, {many: target})
    return title, rows


def precision(options: Options) -> tuple[str, list[Row]]:
    """Compare a training step in single and in mixed precision."""
    data = make_data(options.cells, n_domains=N_DOMAINS, batch_size=BATCH_SIZE, n_features=options.features)
    figures = {
        name: LightningSteps(make_module(data), data, options.steps, precision=name).seconds_per_step for name in ("32-true", "bf16-mixed")
    }
    found = measure_in_turn(figures, options.rounds)
    title = f"precision: Lightning step, {BATCH_SIZE} cells x {options.features:,} features; {_describe_bf16_support()}"
    return title, _compare(found, "32-true", {})


def gather(options: Options) -> tuple[str, list[Row]]:
    """Measure the gathering of minibatches from prepared cells."""
    rng = np.random.default_rng(SEED)
    prepared = InputDataset(make_counts(options.gather_cells, rng, options.features), np.zeros(options.gather_cells, np.int64))
    # The minibatches are so many that they use all cells, which no cache holds.
    drawn = itertools.cycle(rng.integers(options.gather_cells, size=(2000, BATCH_SIZE)))
    seconds = measure_in_turn(
        {"PreparedCells": seconds_per_call(lambda: prepared[next(drawn)].rows.dense(), options.steps)}, options.rounds
    )
    cells = BATCH_SIZE / seconds["PreparedCells"]
    title = f"gather: minibatches of {BATCH_SIZE} cells out of {options.gather_cells:,} x {options.features:,}"
    return title, [
        ("PreparedCells.__getitem__", _format_speed(cells), f"{np.median(cells) / 150_000:.2f}x of 150,000", ">= 150,000 cells/s")
    ]


class LoopOfBatchNorms(nn.Module):
    """Domain-specific batch norm of the published package: a list of modules and a loop over all known domains.

    Parameters
    ----------
    n_features
        Number of features.
    n_domains
        Number of known domains.
    """

    def __init__(self, n_features: int, n_domains: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm1d(n_features) for _ in range(n_domains))

    def forward(self, x_CF: Tensor, domain_C: Tensor) -> Tensor:
        """Normalize the rows of each domain, but keep the only row of a domain."""
        out_CF = torch.zeros_like(x_CF)
        for code, norm in enumerate(self.norms):
            rows = np.flatnonzero(domain_C.cpu().numpy() == code)
            if len(rows) > 1:
                out_CF[rows] = norm(x_CF[rows])
            elif len(rows) == 1:
                out_CF[rows] = x_CF[rows]
        return out_CF


def _make_passes(norm: nn.Module, n_domains: int, n_features: int) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(SEED)
    x_CF = torch.randn(BATCH_SIZE, n_features, generator=generator).requires_grad_()
    grad_CF = torch.randn(BATCH_SIZE, n_features, generator=generator)
    domain_C = torch.randint(n_domains, (BATCH_SIZE,), generator=generator)
    inputs = [x_CF, *norm.parameters()]
    # In the loop of modules, domains without rows get no gradient.
    return lambda: torch.autograd.grad(norm(x_CF, domain_C), inputs, grad_CF, allow_unused=True)


def _make_bare_step(minibatches: Iterator[CellBatch], n_features: int) -> Callable[[], None]:
    """Return a function that does forward, loss, backward and Adam, without Lightning."""
    generator = torch.Generator().manual_seed(SEED)
    net = VAE(n_features, N_DOMAINS, n_latent=N_LATENT, n_hidden=N_HIDDEN)
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-4, weight_decay=5e-4, fused=True)

    def run() -> None:
        batch = next(minibatches)
        optimizer.zero_grad()
        counts = MinibatchCounts.of(batch.domain_C, N_DOMAINS)
        x_CG = batch.rows.dense()
        noise_CZ = draw_noise(len(x_CG), N_LATENT, counts, generator)
        logits_CG, posterior = net(x_CG, batch.domain_C, noise_CZ, counts)
        loss = (reconstruction_loss(logits_CG, x_CG) + 0.5 * kl_divergence(posterior)) / counts.n_cells
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return run


def _make_matrix_products(n_features: int) -> Callable[[], None]:
    """Return a function that computes hidden layer, gradient of its weight and decoder, in preallocated memory."""
    generator = torch.Generator().manual_seed(SEED)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    x_CG, weight_HG, grad_HC = random(BATCH_SIZE, n_features), random(N_HIDDEN, n_features), random(N_HIDDEN, BATCH_SIZE)
    z_CZ, weight_ZG = random(BATCH_SIZE, N_LATENT), random(N_LATENT, n_features)
    hidden_CH, grad_HG, logits_CG = torch.empty(BATCH_SIZE, N_HIDDEN), torch.empty_like(weight_HG), torch.empty_like(x_CG)

    def run() -> None:
        torch.mm(x_CG, weight_HG.T, out=hidden_CH)
        torch.mm(grad_HC, x_CG, out=grad_HG)
        torch.mm(z_CZ, weight_ZG, out=logits_CG)

    return run


def _compare(found: Mapping[str, NDArray[np.float64]], base: str, targets: Mapping[str, str]) -> list[Row]:
    """Return a row for each time, with its ratio to that of `base`."""
    return [
        (name, f"{np.median(times) * 1e3:.2f} ms", "1" if name == base else f"{ratio(times, found[base]):.2f}x", targets.get(name, ""))
        for name, times in found.items()
    ]


def _format_speed(cells_per_second: NDArray[np.float64]) -> str:
    return f"{np.median(cells_per_second):,.0f} cells/s"


def _describe_bf16_support() -> str:
    """Return whether the processor multiplies bfloat16 in hardware, according to Linux."""
    path = Path("/proc/cpuinfo")
    if not path.exists():
        return "bfloat16 support of the processor not known"
    known = path.read_text().split()
    return ", ".join(f"{flag}: {'yes' if flag in known else 'no'}" for flag in ("avx512_bf16", "amx_bf16"))


BENCHMARKS: dict[str, Benchmark] = {f.__name__: f for f in (training, step, dsbn, precision, gather)}


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--published", metavar="PYTHON", help="interpreter that has the published package")
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help="some of the benchmarks")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the tables to")
    parser.add_argument("--rounds", type=int, default=7, help="times that each figure is measured")
    parser.add_argument("--steps", type=int, default=120, help="steps or calls in a round")
    parser.add_argument("--cells", type=int, default=4000, help="cells to train on")
    parser.add_argument("--gather-cells", type=int, default=100_000, help="cells to gather minibatches from")
    parser.add_argument("--features", type=int, default=N_FEATURES, help="features of the cells")
    return parse_arguments(parser, argv, rounds=0, steps=2, cells=600, gather_cells=1000, features=100)


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected benchmarks and show a table for each."""
    arguments = _arguments(argv)
    torch.set_num_threads(1)
    about = provenance(tiny=arguments.tiny)
    keep_freed_memory()
    options = Options(arguments.published, arguments.rounds, arguments.steps, arguments.cells, arguments.gather_cells, arguments.features)
    # Lightning advises worker processes, but one thread is measured.
    warnings.filterwarnings("ignore", category=PossibleUserWarning)
    with log_to(None):
        for name in arguments.only:
            title, rows = BENCHMARKS[name](options)
            text = f"{about}; medians of {options.rounds} rounds\n\n{markdown_table(COLUMNS, rows)}"
            show(title, text, arguments.output)


if __name__ == "__main__":
    main()
