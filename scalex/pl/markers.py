"""Expression of markers in groups of cells."""

from __future__ import annotations

import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes

from scalex.system.figure_text import draw_text_as_it_is, shorten_name, shorten_names

__all__ = ["markers"]


@draw_text_as_it_is()
def markers(adata: AnnData, table: pd.DataFrame, groupby: str = "leiden", *, n_features: int = 3) -> Axes:
    """Draw how many cells of each group express the best markers, and how strongly, as scanpy's dot plot.

    Markers that are higher in all domains that can tell come first, if the table says so.

    Parameters
    ----------
    adata
        A result with normalized expression in `.raw`, or in X if there is no `.raw`.
    table
        Markers of its groups, as `scalex.genes.find_markers` returns them.
    groupby
        Column of obs with the groups.
    n_features
        Number of markers of each group. A feature is drawn once, at the first group that has it.

    Returns
    -------
    matplotlib.axes.Axes
        The panel of the dots.

    Raises
    ------
    KeyError
        If there is no such column.
    ValueError
        If the table has no markers of the groups.
    """
    if groupby not in adata.obs:
        raise KeyError(f"{groupby!r} is not in obs. Columns: {', '.join(map(str, adata.obs.columns))}.")
    chosen = _choose(table, n_features)
    groups = [one for one in adata.obs[groupby].astype("category").cat.categories if one in chosen]
    if not groups:
        raise ValueError(f"The table has no markers of the groups in obs[{groupby!r}].")
    names = dict(zip(groups, shorten_names(groups), strict=True))
    features = list(dict.fromkeys(name for one in groups for name in chosen[one]))
    member = adata.obs[groupby].isin(groups).to_numpy()
    values = adata[member] if adata.raw is None else adata.raw[member]
    group = pd.Categorical(adata.obs.loc[member, groupby], categories=groups).rename_categories(names)
    shown = AnnData(values[:, features].X, obs=pd.DataFrame({groupby: group}, adata.obs_names[member]), var=pd.DataFrame(index=features))
    plot = sc.pl.DotPlot(shown, {names[one]: chosen[one] for one in groups if chosen[one]}, groupby)
    plot.style(cmap="viridis").legend(colorbar_title="mean log expression", size_title="cells that express it (%)")
    plot.make_figure()
    axis: Axes = plot.ax_dict["mainplot_ax"]
    axis.set_ylabel(shorten_name(groupby))
    return axis


def _choose(table: pd.DataFrame, n_features: int) -> dict[object, list[str]]:
    """Return the best markers of each group."""
    higher = table[table["score"] > 0]
    if "domains" in higher:
        higher = higher.assign(lacking=higher["domains"] - higher["domains_higher"]).sort_values("lacking", kind="stable")
    used: set[str] = set()
    chosen: dict[object, list[str]] = {}
    for group, rows in higher.groupby("group", observed=True, sort=False):
        chosen[group] = [name for name in rows["feature"] if name not in used][:n_features]
        used |= set(chosen[group])
    return chosen
