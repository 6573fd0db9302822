"""Plots of the results of `run.py`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import scanpy as sc
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from numpy.typing import NDArray

from benchmarks.quality.peers import Embedding
from benchmarks.quality.sets import LabelledCells
from benchmarks.quality.store import Figures, Method, Store, select_scored

__all__ = ["draw_totals", "draw_umaps"]

N_NEIGHBORS = 30
PANEL = 2.6
# More than the ten colours of the default cycle, since there may be fourteen types.
COLORS = [*mpl.color_sequences["tab20"][::2], *mpl.color_sequences["tab20"][1::2]]


def draw_totals(found: Mapping[str, Mapping[str, Sequence[Figures]]], path: Path) -> None:
    """Plot the total of each set and method as a bar, with its spread over seeds, and bio and batch as marks.

    Parameters
    ----------
    found
        Figures of each seed, by set and method.
    path
        File of the plot.
    """
    methods = list(dict.fromkeys(method for by_method in found.values() for method in by_method))
    width = 0.8 / max(len(methods), 1)
    figure, axes = plt.subplots(figsize=(max(1.5 + 0.3 * len(found) * (len(methods) + 1), 6), 4.5), layout="constrained")
    for i, method in enumerate(methods):
        at = [place for place, by_method in enumerate(found.values()) if method in by_method]
        values = {key: [[one[key] for one in by[method]] for by in found.values() if method in by] for key in ("total", "bio", "batch")}
        x = np.array(at) + (i - (len(methods) - 1) / 2) * width
        spread = [np.std(seeds, ddof=1) if len(seeds) > 1 else 0.0 for seeds in values["total"]]
        axes.bar(x, [np.mean(seeds) for seeds in values["total"]], 0.9 * width, yerr=spread, color=COLORS[i % len(COLORS)], label=method)
        for key, marker in (("bio", "^"), ("batch", "v")):
            axes.plot(x, [np.mean(seeds) for seeds in values[key]], marker, color="black", markersize=4, label=key if i == 0 else None)
    axes.set_xticks(range(len(found)), [name.replace("_", " ") for name in found], rotation=20, ha="right")
    axes.set_ylabel("score")
    axes.set_ylim(0, 1)
    figure.legend(loc="outside right upper", frameon=False)
    figure.savefig(path, dpi=150)
    plt.close(figure)


def draw_umaps(store: Store, sets: Sequence[LabelledCells], methods: Sequence[Method], path: Path) -> None:
    """Plot UMAPs of the scored cells by domain and by type, with two rows per set and a column per method, for the first seed.

    Parameters
    ----------
    store
        Store of the embeddings.
    sets
        Cells of the sets.
    methods
        Methods; the panels of a method without an embedding of a set are empty.
    path
        File of the plot.
    """
    if not methods:
        return
    shape = (2 * len(sets), len(methods))
    figure, panels = plt.subplots(*shape, figsize=(PANEL * shape[1] + 2, PANEL * shape[0]), squeeze=False, layout="constrained")
    for i, cells in enumerate(sets):
        obs = select_scored(cells.adata.obs)
        for j, method in enumerate(methods):
            embedding = store.embedding(cells, method, method.seeds[0])
            pair = panels[2 * i : 2 * i + 2, j]
            for axes, column in zip(pair, ("batch", "cell_type"), strict=True):
                axes.set(xticks=[], yticks=[])
                axes.spines[:].set(color="lightgray")
                if i == 0 and column == "batch":
                    axes.set_title(method.name, fontsize=9)
                if j == 0:
                    axes.set_ylabel(f"{cells.name}\n{'domain' if column == 'batch' else 'type'}", fontsize=7)
                if embedding is not None:
                    _scatter(axes, _compute_umap(store, cells, method, embedding, obs), obs[column], legend=j == len(methods) - 1)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def _compute_umap(store: Store, cells: LabelledCells, method: Method, embedding: Embedding, obs: pd.DataFrame) -> NDArray[np.float32]:
    """Return coordinates (n_cells, 2) of the scored cells, which are stored."""
    latent = embedding.select(obs.index.to_numpy(str))

    def make() -> NDArray[np.float32]:
        adata = ad.AnnData(obs=obs[[]], obsm={"latent": latent})
        sc.pp.neighbors(adata, n_neighbors=N_NEIGHBORS, use_rep="latent")
        sc.tl.umap(adata, min_dist=0.1)
        return np.asarray(adata.obsm["X_umap"], np.float32)

    return store.load_or_make("umaps", f"{cells.name}: UMAP of {method.name}", latent, make)


def _scatter(axes: Axes, at: NDArray[np.float32], category: pd.Series, *, legend: bool) -> None:
    """Plot cells in random order, so that no category covers the others."""
    names = category.cat.categories
    order = np.random.default_rng(0).permutation(len(at))
    colors = np.array([COLORS[i % len(COLORS)] for i in range(len(names))])
    axes.scatter(at[order, 0], at[order, 1], c=colors[category.cat.codes.to_numpy()[order]], s=2, linewidths=0, rasterized=True)
    if legend:
        marks = [Line2D([], [], marker="o", linestyle="", markersize=3, color=color) for color in colors]
        axes.legend(marks, names, loc="center left", bbox_to_anchor=(1, 0.5), fontsize=5, frameon=False, labelspacing=0.2)
