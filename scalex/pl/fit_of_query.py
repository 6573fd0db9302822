"""How well new cells fit a reference: one page of plots."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scalex.pl.colors import choose_styles
from scalex.pl.maps import draw_over
from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names

__all__ = ["draw_projection"]

# A histogram of fewer cells shows nothing.
MIN_CELLS = 10
# Letters of a line under the panels.
LONGEST_LINE = 170
# Inches: height of the plots below the maps, the largest width of one, the space around it, and the height of a line of text.
PLOT, WIDEST = 3.2, 7.0
TOP, BOTTOM, LEFT, RIGHT = 0.5, 0.6, 1.6, 0.3
LINE = 0.18


@draw_text_as_it_is()
def draw_projection(
    sample: pd.DataFrame,
    reference_umap: NDArray[np.float32] | None,
    own_distance: NDArray[np.float32],
    limit: float,
    lines: list[str],
) -> Figure:
    """Draw one page of plots that show where new cells lie among the reference's cells.

    Parameters
    ----------
    sample
        New cells, with the columns "domain", "distance" and "outside" and, if known, "label", "umap1" and "umap2".
    reference_umap
        (n_reference, 2) UMAP coordinates of the reference's cells. None: the maps are omitted.
    own_distance, limit
        (n_held_out,) distances of held-out reference cells, and the distance above which a cell is outside; see `LatentMap`.
    lines
        Lines of text under the panels, of which the first 14 are shown.
    """
    text = [shorten_name(line, LONGEST_LINE) for line in lines[:14]]
    below = TOP + PLOT + BOTTOM + LINE * (len(text) + 1)
    has_maps = reference_umap is not None and "umap1" in sample
    figure = _draw_maps(sample, np.asarray(reference_umap), below) if has_maps else plt.figure(figsize=(12, below))
    sample = sample.copy()
    for column in sample.columns.intersection(["domain", "label"]):
        groups = sample[column].astype("category").cat.remove_unused_categories()
        sample[column] = groups.cat.rename_categories(shorten_names(groups.cat.categories))
    width, height = figure.get_size_inches()
    plots = ["distance", *(["label"] if "label" in sample else [])]
    share = min(width / len(plots), WIDEST)
    for n, name in enumerate(plots):
        left, bottom = n * share + LEFT, below - TOP - PLOT
        axis = figure.add_axes((left / width, bottom / height, (share - LEFT - RIGHT) / width, PLOT / height))
        if name == "distance":
            _draw_distances(axis, sample, own_distance, limit)
        else:
            _draw_labels(axis, sample)
    figure.text(0.25 / width, LINE / height, "\n".join(text), fontsize=9, ha="left", va="bottom", linespacing=1.35)
    return figure


def _draw_maps(sample: pd.DataFrame, reference_umap: NDArray[np.float32], below: float) -> Figure:
    titles = {"domain": "new cells by domain", "label": "new cells by transferred label", "distance": "new cells by distance"}
    columns = sample[[name for name in titles if name in sample]].rename(columns=titles)
    axes = draw_over(reference_umap, sample[["umap1", "umap2"]].to_numpy(), columns, below=below)
    figure = axes[0].figure
    assert isinstance(figure, Figure)
    return figure


def _draw_distances(axis: Axes, sample: pd.DataFrame, own_distance: NDArray[np.float32], limit: float) -> None:
    bins = np.linspace(0, max(2 * limit, float(np.quantile(sample["distance"], 0.98))), 60).tolist()
    axis.hist(np.clip(own_distance, 0, bins[-1]), bins, density=True, color="lightgrey", label="reference, held out")
    domains = sample["domain"].value_counts().index[:10]
    styles = choose_styles(sample["domain"].cat.categories)
    for domain in domains:
        own = sample.loc[sample["domain"] == domain, "distance"]
        if len(own) >= MIN_CELLS:
            axis.hist(np.clip(own, 0, bins[-1]), bins, density=True, histtype="step", color=styles[domain].color, label=str(domain))
    axis.axvline(limit, color="black", linestyle=":", label="outside")
    axis.set(title="distance to the reference", xlabel="1 = median of the reference's own cells", ylabel="density")
    # loc="best" compares all that is drawn, which takes long.
    axis.legend(fontsize=8, frameon=False, loc="upper right")


def _draw_labels(axis: Axes, sample: pd.DataFrame) -> None:
    share = sample.groupby("label", observed=True)["outside"].agg(["size", "mean"]).sort_values("size").tail(20)
    axis.barh(share.index.astype(str), share["size"], color="lightgrey", label="cells")
    axis.barh(share.index.astype(str), share["size"] * share["mean"], color="tab:red", label="of these outside")
    axis.set(title="transferred labels", xlabel="cells (of those sampled)")
    axis.tick_params(axis="y", labelsize=8)
    # Free space: the longest bar is at the top.
    axis.legend(fontsize=8, frameon=False, loc="lower right")
