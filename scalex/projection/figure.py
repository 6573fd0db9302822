"""Drawing of the figure of a projection, from arrays. Nothing is read or written."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names

__all__ = ["draw_projection"]

# A histogram of fewer cells shows nothing.
MIN_CELLS = 10
# Letters of a line under the panels.
LONGEST_LINE = 180


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
    sample = sample.copy()
    for column in sample.columns.intersection(["domain", "label"]):
        groups = sample[column].astype("category").cat.remove_unused_categories()
        sample[column] = groups.cat.rename_categories(shorten_names(groups.cat.categories))
    maps = [] if reference_umap is None else [c for c in ("domain", "label", "distance") if c in sample]
    n_rows, n_columns, size = (2, 3, (17, 9)) if maps else (1, 2, (12, 5.5))
    figure, axes = plt.subplots(n_rows, n_columns, figsize=size, squeeze=False, layout="constrained")
    panels = list(axes.flat)
    for axis, color in zip(panels, maps, strict=False):
        _draw_map(axis, sample, reference_umap, color, limit)
    rest = panels[len(maps) :]
    _draw_distances(rest[0], sample, own_distance, limit)
    if "label" in sample:
        _draw_labels(rest[1], sample)
    for axis in rest[1 + ("label" in sample) :]:
        axis.axis("off")
    figure.supxlabel("\n".join(shorten_name(line, LONGEST_LINE) for line in lines[:14]), fontsize=9, ha="left", x=0.01)
    return figure


def _draw_map(axis: Axes, sample: pd.DataFrame, umap: NDArray[np.float32] | None, color: str, limit: float) -> None:
    assert umap is not None
    size = float(np.clip(40_000 / (len(sample) + len(umap)), 1.5, 12))
    axis.scatter(umap[:, 0], umap[:, 1], s=size, c="lightgrey", linewidths=0, rasterized=True, label="reference")
    order = np.random.default_rng(0).permutation(len(sample))
    shuffled = sample.iloc[order]
    if color == "distance":
        colors = {"c": shuffled["distance"], "vmin": 0, "vmax": 2 * limit, "cmap": "viridis"}
        points = axis.scatter(shuffled["umap1"], shuffled["umap2"], s=size, linewidths=0, rasterized=True, **colors)
        axis.figure.colorbar(points, ax=axis, label=f"distance (outside above {limit:.1f})")
    else:
        groups = shuffled[color]
        palette = _choose_colors(list(groups.cat.categories))
        axis.scatter(shuffled["umap1"], shuffled["umap2"], s=size, c=[palette[group] for group in groups], linewidths=0, rasterized=True)
        largest = list(groups.value_counts().index[:20])
        handles = [plt.Line2D([], [], marker="o", linestyle="", color=palette[group], label=str(group)) for group in largest]  # type: ignore[attr-defined]
        grey = plt.Line2D([], [], marker="o", linestyle="", color="lightgrey", label="reference")  # type: ignore[attr-defined]
        axis.legend(handles=[grey, *handles], fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))
    axis.set(title={"label": "query by transferred label"}.get(color, f"query by {color}"), xticks=[], yticks=[], frame_on=False)


def _draw_distances(axis: Axes, sample: pd.DataFrame, own_distance: NDArray[np.float32], limit: float) -> None:
    bins = np.linspace(0, max(2 * limit, float(np.quantile(sample["distance"], 0.98))), 60).tolist()
    axis.hist(np.clip(own_distance, 0, bins[-1]), bins, density=True, color="lightgrey", label="reference, each cell held out")
    domains = sample["domain"].value_counts().index[:10]
    palette = _choose_colors(list(sample["domain"].cat.categories))
    for domain in domains:
        own = sample.loc[sample["domain"] == domain, "distance"]
        if len(own) >= MIN_CELLS:
            axis.hist(np.clip(own, 0, bins[-1]), bins, density=True, histtype="step", color=palette[domain], label=str(domain))
    axis.axvline(limit, color="black", linestyle=":", label="outside")
    axis.set(title="distance to the reference", xlabel="1 = median of the reference's own cells", ylabel="density")
    # loc="best" compares all that is drawn, which takes long.
    axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1, 0.5))


def _draw_labels(axis: Axes, sample: pd.DataFrame) -> None:
    share = sample.groupby("label", observed=True)["outside"].agg(["size", "mean"]).sort_values("size").tail(20)
    axis.barh(share.index.astype(str), share["size"], color="lightgrey", label="cells")
    axis.barh(share.index.astype(str), share["size"] * share["mean"], color="tab:red", label="of these outside")
    axis.set(title="transferred labels", xlabel="cells (of those sampled)")
    axis.tick_params(axis="y", labelsize=8)
    # Free space: the longest bar is at the top.
    axis.legend(fontsize=8, frameon=False, loc="lower right")


def _choose_colors(groups: list[str]) -> dict[str, str]:
    palette = sc.pl.palettes.default_20 if len(groups) <= 20 else sc.pl.palettes.default_102
    return {group: palette[i % len(palette)] for i, group in enumerate(groups)} | {"unknown": "black"}
