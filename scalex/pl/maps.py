"""UMAPs of an integration and of a projection."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from anndata import AnnData
from matplotlib.axes import Axes

from scalex.pl.colors import Style, choose_styles
from scalex.pl.panels import MAX_LEGEND, add_legend, choose_size, draw_groups, draw_values, make_panels, name_groups, set_limits
from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names

__all__ = ["draw_over", "projection", "umap"]

# Groups whose names are written among the cells as well.
CLUSTERS = "leiden"
REFERENCE = Style("#D3D3D3", "o")
# Letters of a title.
LONGEST_TITLE = 50
# Height of a colour bar, as rows of a legend.
BAR = [""] * 2


@draw_text_as_it_is()
def umap(adata: AnnData, color: str | Sequence[str] | None = None) -> list[Axes]:
    """Draw the UMAP with a panel for each of some columns of obs.

    Parameters
    ----------
    adata
        A result with obsm["X_umap"], (n_cells, 2).
    color
        Columns of obs, of groups or numbers. None: "domain", "cell_type" and "leiden", as far as they are there.

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each column, all of one figure.

    Raises
    ------
    KeyError
        If there is no UMAP, or no such column.
    """
    points = _get_umap(adata)
    colors = _list_colors(adata, color, ("domain", "cell_type", CLUSTERS))
    columns = {name: _prepare(adata.obs[name]) for name in colors}
    axes = make_panels([_list_names(values) for values in columns.values()])
    for axis, (name, values) in zip(axes, columns.items(), strict=True):
        _draw_column(axis, points, values, name)
        set_limits(axis, points)
    return axes


@draw_text_as_it_is()
def projection(adata: AnnData, color: str | Sequence[str] | None = None) -> list[Axes]:
    """Draw new cells over those of the reference, which are grey, on its UMAP.

    Parameters
    ----------
    adata
        The result of a projection, with reference and new cells: obs["projection"] and obsm["X_umap"].
    color
        Columns of obs by which the new cells are drawn. None: "domain", the transferred labels if there are any, and "distance".

    Returns
    -------
    list of matplotlib.axes.Axes
        One for each column, all of one figure.

    Raises
    ------
    KeyError
        If there is no UMAP, or no such column.
    """
    points = _get_umap(adata)
    if "projection" not in adata.obs:
        raise KeyError('obs["projection"] is not there: this is no result of a projection with the cells of the reference (repeat=False).')
    is_new = (adata.obs["projection"] == "query").to_numpy()
    labels = [name for name in adata.obs if str(name).endswith("_label")]
    colors = _list_colors(adata, color, ("domain", *labels, "distance"))
    return draw_over(points[~is_new], points[is_new], adata.obs.loc[is_new, colors])


def draw_over(reference: np.ndarray, points: np.ndarray, columns: pd.DataFrame, *, below: float = 0.0) -> list[Axes]:
    """Draw new cells over those of a reference, in a new figure.

    Parameters
    ----------
    reference
        (n_reference, 2) coordinates of the reference's cells.
    points
        (n_cells, 2) coordinates of the new cells.
    columns
        (n_cells, n_panels) groups or numbers of the new cells, a panel for each column.
    below
        Inches left free below the panels.
    """
    values = {str(name): _prepare(columns[name]) for name in columns}
    axes = make_panels([["reference", *_list_names(one)] for one in values.values()], below=below)
    every = np.concatenate([reference, points])
    for axis, (name, one) in zip(axes, values.items(), strict=True):
        axis.scatter(reference[:, 0], reference[:, 1], s=choose_size(len(every)), c=REFERENCE.color, linewidths=0, rasterized=True)
        _draw_column(axis, points, one, name, {"reference": REFERENCE}, choose_size(len(every)))
        set_limits(axis, every)
    return axes


def _draw_column(
    axis: Axes,
    points: np.ndarray,
    values: pd.Categorical | np.ndarray,
    name: str,
    beside: dict[str, Style] | None = None,
    size: float | None = None,
) -> None:
    title = shorten_name(name, LONGEST_TITLE)
    if isinstance(values, pd.Categorical):
        styles = choose_styles(values.categories)
        draw_groups(axis, points, values, styles, size=size)
        legend = _list_names(values)
        if legend or not len(values.categories):
            add_legend(axis, {**(beside or {}), **{one: styles[one] for one in legend}})
        else:
            title = f"{title} ({len(values.categories):,})"
        if name == CLUSTERS and legend:
            name_groups(axis, points, values)
    else:
        known = values[np.isfinite(values)]
        low, high = np.quantile(known, [0.0, 0.99]) if len(known) else (0.0, 1.0)
        draw_values(axis, points, values, limits=(float(low), float(high)), size=size)
    axis.set_title(title, fontsize=11)


def _prepare(column: pd.Series) -> pd.Categorical | np.ndarray:
    """Return the values of a column as numbers, or as groups whose names fit into a legend."""
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        return column.to_numpy(float, na_value=np.nan)
    groups = pd.Categorical(column).remove_unused_categories()
    return groups.rename_categories(shorten_names(groups.categories))


def _list_names(values: pd.Categorical | np.ndarray) -> list[str]:
    if not isinstance(values, pd.Categorical):
        return BAR
    return list(values.categories) if len(values.categories) <= MAX_LEGEND else []


def _get_umap(adata: AnnData) -> np.ndarray:
    if "X_umap" not in adata.obsm:
        raise KeyError('obsm["X_umap"] is not there. scanpy.pp.neighbors(adata, use_rep="latent") and scanpy.tl.umap(adata) compute it.')
    return np.asarray(adata.obsm["X_umap"])[:, :2]


def _list_colors(adata: AnnData, color: str | Sequence[str] | None, default: Sequence[str]) -> list[str]:
    if color is None:
        return [name for name in default if name in adata.obs]
    colors = [color] if isinstance(color, str) else list(color)
    for name in colors:
        if name not in adata.obs:
            raise KeyError(f"{name!r} is not in obs. Columns: {', '.join(map(str, adata.obs.columns))}.")
    return colors
