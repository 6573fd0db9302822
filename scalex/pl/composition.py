"""The shares of domains in clusters, or of any groups in others."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scalex.pl.colors import choose_styles
from scalex.pl.panels import FONT_SIZE, MAX_LEGEND
from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names

__all__ = ["composition", "find_single_domain_clusters"]

# Share of a cluster's cells from which it counts as one of a single domain, and the smallest cluster that is named.
SINGLE = 0.95
MIN_CELLS = 10


@draw_text_as_it_is()
def composition(adata: AnnData, groups: str = "leiden", by: str = "domain", axis: Axes | None = None) -> Axes:
    """Draw the shares of the domains in each cluster as stacked bars.

    Parameters
    ----------
    adata
        A result.
    groups
        Column of obs with a bar for each value.
    by
        Column of obs whose shares are drawn.
    axis
        Where to draw. None: in a new figure.

    Returns
    -------
    matplotlib.axes.Axes
        The panel.

    Raises
    ------
    KeyError
        If there is no such column.
    """
    for name in (groups, by):
        if name not in adata.obs:
            raise KeyError(f"{name!r} is not in obs. Columns: {', '.join(map(str, adata.obs.columns))}.")
    counts = pd.crosstab(adata.obs[groups], adata.obs[by])
    shares = counts.div(counts.sum(1), axis=0)
    if axis is None:
        _, axis = plt.subplots(figsize=(7, 1.2 + 0.24 * len(counts)), layout="constrained")
    names = shorten_names(counts.columns)
    styles = choose_styles(names)
    left = np.zeros(len(counts))
    row = np.arange(len(counts))[::-1]
    for name, column in zip(names, counts.columns, strict=True):
        axis.barh(row, shares[column], left=left, color=styles[name].color, height=0.8, label=name)
        left += shares[column].to_numpy()
    labels = [f"{name} ({n:,})" for name, n in zip(shorten_names(counts.index), counts.sum(1), strict=True)]
    axis.set_yticks(row, labels, fontsize=FONT_SIZE)
    axis.set(xlim=(0, 1), ylim=(-0.6, len(counts) - 0.4), xlabel=f"share of each {shorten_name(by)}")
    axis.set_title(f"{shorten_name(groups)} (cells)", fontsize=11)
    if len(names) <= MAX_LEGEND:
        axis.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, fontsize=FONT_SIZE, ncols=1 + len(names) // 25)
    return axis


def find_single_domain_clusters(cluster: pd.Series, domain: pd.Series) -> pd.DataFrame:
    """Return the clusters of which nearly all cells are of one domain.

    Parameters
    ----------
    cluster, domain
        (n_cells,) cluster and domain of each cell.

    Returns
    -------
    pd.DataFrame
        A row for each cluster with at least 10 cells, of which 95 % or more are of one domain: "domain", "share" and "cells".
    """
    counts = pd.crosstab(cluster, domain)
    total = counts.sum(1)
    found = pd.DataFrame({"domain": counts.idxmax(1), "share": counts.max(1) / total, "cells": total})
    return found[(found["share"] >= SINGLE) & (found["cells"] >= MIN_CELLS)] if counts.shape[1] > 1 else found.iloc[:0]
