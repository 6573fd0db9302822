"""Tests between conditions where there is no difference, and where it is known: ``python -m benchmarks.differential``; see README.md."""

from __future__ import annotations

import os

# These are set before the imports, since libraries read them when they are loaded, and only by the command, so that an import sets nothing.
if __name__ == "__main__":
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    os.environ["NUMBA_NUM_THREADS"] = "1"

import argparse
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from anndata import AnnData

from benchmarks.provenance import provenance
from benchmarks.real_cells import data_folder
from benchmarks.tables import markdown_table, show
from benchmarks.tiny import parse_arguments
from scalex import AnnDataSource
from scalex.demo import demo_cells
from scalex.genes import compare_conditions, make_pseudobulk
from scalex.runs.log import log_to

SEED = 124
FALSE_DISCOVERIES = 0.05
# Interferon's best known genes.
KNOWN = ("ISG15", "IFIT1", "IFI6")
# Parts of the cells of a condition that stand for samples, where the donors are not known.
N_PARTS = 3

Row = tuple[str, ...]


@dataclass(frozen=True)
class Options:
    """The extent of the measurements. `tiny`: made cells instead of real ones."""

    splits: int
    tiny: bool


def null(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Split the donors of control cells at random into two halves, between which no gene differs by a condition."""
    cells = demo_cells(600, 400, 6)[:, :60].copy() if options.tiny else ad.read_h5ad(data_folder() / "kang_ctrl_donors.h5ad")
    donors = sorted(cells.obs["batch"].astype(str).unique())
    sums = make_pseudobulk(AnnDataSource(path=cells), label="cell_type", sample="batch")
    rng = np.random.default_rng(SEED)
    # Each split once: the first donor is on the first side.
    halves = [(donors[0], *rest) for rest in itertools.combinations(donors[1:], len(donors) // 2 - 1)]
    chosen = [halves[i] for i in rng.permutation(len(halves))[: options.splits]]
    shares = pd.DataFrame([_share_called(sums, half) for half in chosen])
    rows = [_describe(str(name), shares[name].dropna()) for name in shares]
    title = (
        f"differential, null: {len(chosen)} of {len(halves)} splits of {len(donors)} donors; genes with adjusted p < {FALSE_DISCOVERIES}"
    )
    columns = ("type", "splits tested", "mean share of genes", "largest share", f"splits with at most {FALSE_DISCOVERIES:.0%} of genes")
    return title, columns, rows


def known(options: Options) -> tuple[str, Sequence[str], list[Row]]:
    """Compare stimulated with control cells. The donors are not in the file: random thirds of each condition stand for samples."""
    cells = demo_cells(600, 400, 2)[:, :60].copy() if options.tiny else ad.read_h5ad(data_folder() / "kang_ctrl_stim.h5ad")
    treated, baseline = sorted(cells.obs["batch"].astype(str).unique(), reverse=True)
    part = np.random.default_rng(SEED).integers(N_PARTS, size=cells.n_obs).astype(str)
    cells.obs["part"] = pd.Categorical(cells.obs["batch"].astype(str) + part)
    sums = make_pseudobulk(AnnDataSource(path=cells), label="cell_type", sample="part", condition="batch")
    found = compare_conditions(sums, "cell_type", "batch", treated=treated, baseline=baseline, sample="part", adjust_for=[])
    genes = KNOWN if not options.tiny else tuple(sums.var_names[:3])
    rows = []
    for name, table in found.table.groupby("label", sort=False):
        rank = {feature: i + 1 for i, feature in enumerate(table["feature"])}
        n_called = int((table["adjusted_p"] < FALSE_DISCOVERIES).sum())
        rows.append((str(name), f"{len(table):,}", f"{n_called:,}", *(str(rank.get(gene, "not tested")) for gene in genes)))
    title = "differential, known: stimulated against control cells, rank of genes by p"
    return title, ("type", "genes tested", f"adjusted p < {FALSE_DISCOVERIES}", *genes), rows


def _share_called(sums: AnnData, half: Sequence[str]) -> dict[str, float]:
    """Return the share of the tested genes that are called, for each type and over all of them."""
    split = sums.copy()
    split.obs["side"] = np.where(split.obs["batch"].astype(str).isin(half), "first", "second")
    table = compare_conditions(
        split, "cell_type", "side", treated="first", baseline="second", sample="batch", adjust_for=[]
    ).table  # fmt: skip
    called = table.assign(called=table["adjusted_p"] < FALSE_DISCOVERIES)
    return {**called.groupby("label")["called"].mean(), "all types together": float(called["called"].mean())}


def _describe(name: str, shares: pd.Series) -> Row:
    at_most = (shares <= FALSE_DISCOVERIES).mean()
    return name, str(len(shares)), f"{shares.mean():.4f}", f"{shares.max():.4f}", f"{at_most:.0%}"


BENCHMARKS: dict[str, Callable[[Options], tuple[str, Sequence[str], list[Row]]]] = {one.__name__: one for one in (null, known)}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the selected benchmarks and show a table for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=BENCHMARKS, default=list(BENCHMARKS), metavar="NAME", help="some of the benchmarks")
    parser.add_argument("--splits", type=int, default=35, help="splits of the donors")
    parser.add_argument("--output", type=Path, metavar="FILE", help="markdown file to append the tables to")
    arguments = parse_arguments(parser, argv, splits=1)
    with log_to(None):
        for name in arguments.only:
            title, columns, rows = BENCHMARKS[name](Options(arguments.splits, arguments.tiny))
            show(title, f"{provenance(tiny=arguments.tiny)}\n\n{markdown_table(columns, rows)}", arguments.output)


if __name__ == "__main__":
    main()
