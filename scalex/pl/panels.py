"""Panels of cells in two dimensions, all of one size, with legends below them."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from scalex.pl.colors import Style

__all__ = ["MAX_LEGEND", "add_legend", "choose_size", "draw_groups", "draw_values", "make_panels", "name_groups", "set_limits"]

# A legend of more groups would fill the figure.
MAX_LEGEND = 60
# Inches: width and height of a panel, the space between two, and that for a title; of a row of a legend, a letter and a handle.
PANEL = 4.4
GAP = 0.25
TITLE = 0.4
ROW = 0.175
LETTER = 0.06
HANDLE = 0.3
FONT_SIZE = 8
# Share of the cells on each side that may lie beyond the edge, and how much larger the panel's range must become by them.
FAR = 0.002
MIN_WIDENED = 1.5


def make_panels(legends: Sequence[Sequence[str]], n_columns: int = 3, *, below: float = 0.0) -> list[Axes]:
    """Return the axes of a new figure, with a square panel for each legend, and space for the legends below them.

    Parameters
    ----------
    legends
        Names in the legend of each panel.
    n_columns
        Largest number of panels beside each other.
    below
        Inches left free below all of them.
    """
    n_columns = min(n_columns, len(legends))
    rows = [legends[start : start + n_columns] for start in range(0, len(legends), n_columns)]
    spaces = [GAP + ROW * max(_count_rows(names) for names in row) for row in rows]
    height = sum(TITLE + PANEL + space for space in spaces) + below
    width = n_columns * (PANEL + GAP) + GAP
    figure = plt.figure(figsize=(width, height))
    axes, top = [], height
    for row, space in zip(rows, spaces, strict=True):
        top -= TITLE + PANEL
        for n in range(len(row)):
            left = GAP + n * (PANEL + GAP)
            axes.append(figure.add_axes((left / width, top / height, PANEL / width, PANEL / height)))
        top -= space
    return axes


def _count_columns(names: Sequence[str]) -> int:
    longest = max((len(name) for name in names), default=1)
    return max(1, math.floor(PANEL / (HANDLE + LETTER * longest)))


def _count_rows(names: Sequence[str]) -> int:
    return math.ceil(len(names) / _count_columns(names))


def add_legend(axis: Axes, styles: dict[str, Style]) -> None:
    """Add a legend in columns below a panel."""
    handles = [
        Line2D([], [], linestyle="", color=style.color, marker=style.marker, markersize=5, label=name) for name, style in styles.items()
    ]
    axis.legend(
        handles=handles, loc="upper left", bbox_to_anchor=(0, -0.015), borderaxespad=0, frameon=False, fontsize=FONT_SIZE,
        ncols=_count_columns(list(styles)), handletextpad=0.1, handlelength=1.2, columnspacing=0.8, labelspacing=0.35,
    )  # fmt: skip


def draw_groups(axis: Axes, points: ArrayLike, groups: pd.Categorical, styles: dict[str, Style], *, size: float | None = None) -> None:
    """Draw cells in random order: otherwise the last group would hide the others.

    Parameters
    ----------
    axis
        Where to draw.
    points
        (n_cells, 2) coordinates.
    groups
        (n_cells,) group of each cell. Cells without one are grey.
    styles
        The style of each group.
    size
        Area of a cell, in square points. None: by their number.
    """
    points = np.asarray(points)
    code = np.asarray(groups.codes)
    order = np.random.default_rng(0).permutation(len(points))
    look = [styles[str(name)] for name in groups.categories]
    colors = np.array([*(style.color for style in look), "#C8C8C8"])
    markers = np.array([*(style.marker for style in look), "o"])
    for marker in dict.fromkeys(markers.tolist()):
        some = order[markers[code[order]] == marker]
        axis.scatter(
            points[some, 0], points[some, 1], s=size or choose_size(len(points)), c=colors[code[some]].tolist(), marker=marker,
            linewidths=0, rasterized=True,
        )  # fmt: skip


def draw_values(axis: Axes, points: ArrayLike, values: ArrayLike, *, limits: tuple[float, float], size: float | None = None) -> None:
    """Draw cells by a value, the highest ones last, with a colour bar below the panel.

    Parameters
    ----------
    axis, points, size
        As for `draw_groups`.
    values
        (n_cells,) values.
    limits
        Values of the two ends of the colours.
    """
    points, values = np.asarray(points), np.asarray(values, float)
    order = np.argsort(values, kind="stable")
    cells = axis.scatter(
        points[order, 0], points[order, 1], s=size or choose_size(len(points)), c=values[order], cmap="viridis", vmin=limits[0],
        vmax=limits[1], linewidths=0, rasterized=True,
    )  # fmt: skip
    bar = axis.figure.colorbar(cells, cax=axis.inset_axes((0.1, -0.06, 0.8, 0.03)), orientation="horizontal")
    bar.ax.tick_params(labelsize=FONT_SIZE)


def choose_size(n_cells: int) -> float:
    """Return the area of a cell, in square points, for a panel of some number of cells."""
    return float(np.clip(40_000 / max(n_cells, 1), 1.0, 14))


def name_groups(axis: Axes, points: ArrayLike, groups: pd.Categorical) -> None:
    """Write the name of each group at the median of its cells."""
    points, code = np.asarray(points), np.asarray(groups.codes)
    for n, name in enumerate(groups.categories):
        if (code == n).any():
            x, y = np.median(points[code == n], axis=0)
            outline = [withStroke(linewidth=2, foreground="white")]
            axis.text(x, y, str(name), fontsize=FONT_SIZE, weight="bold", ha="center", va="center", path_effects=outline)


def set_limits(axis: Axes, points: ArrayLike) -> None:
    """Show all cells with equal units, or, if a few far ones would shrink the others, all but those, and say how many are left out."""
    points = np.asarray(points, float)
    low, high = points.min(0), points.max(0)
    near_low, near_high = np.quantile(points, [FAR, 1 - FAR], axis=0)
    if _measure_side(low, high) > MIN_WIDENED * _measure_side(near_low, near_high):
        low, high = near_low, near_high
    side = 1.08 * max(_measure_side(low, high), 1e-6)
    centre = (low + high) / 2
    first, last = centre - side / 2, centre + side / 2
    axis.set(xlim=(first[0], last[0]), ylim=(first[1], last[1]), xticks=[], yticks=[])
    n_far = int(((points < first) | (points > last)).any(1).sum())
    if n_far:
        axis.text(0.99, 0.01, f"{n_far:,} cells beyond the edge", transform=axis.transAxes, fontsize=7, color="grey", ha="right")
    for spine in axis.spines.values():
        spine.set_color("lightgrey")


def _measure_side(low: NDArray[np.float64], high: NDArray[np.float64]) -> float:
    return float((high - low).max())
