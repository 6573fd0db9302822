"""Expression of markers in groups of cells."""

from __future__ import annotations

import pandas as pd
import scanpy as sc
from anndata import AnnData
from matplotlib.axes import Axes

from scalex.features.columns import require_column
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
    column, chosen = require_column(adata.obs, groupby, "groupby"), _choose(table, n_features)
    groups = [one for one in column.categories if one in chosen]
    if not groups:
        raise ValueError(
            f"The table has no markers of the groups in obs[{groupby!r}]. It has: {', '.join(chosen) or 'none'}; obs: "
            f"{', '.join(column.categories[:5])}, ..."
        )
    names = dict(zip(groups, shorten_names(groups), strict=True))
    features = list(dict.fromkeys(name for one in groups for name in chosen[one]))
    member = column.isin(groups)
    values = adata[member] if adata.raw is None else adata.raw[member]
    group = column[member].set_categories(groups).rename_categories(names)
    shown = AnnData(values[:, features].X, obs=pd.DataFrame({groupby: group}, adata.obs_names[member]), var=pd.DataFrame(index=features))
    plot = sc.pl.DotPlot(shown, {names[one]: chosen[one] for one in groups if chosen[one]}, groupby)
    plot.style(cmap="viridis").legend(colorbar_title="mean log expression", size_title="cells that express it (%)")
    plot.make_figure()
    axis: Axes = plot.ax_dict["mainplot_ax"]
    axis.set_ylabel(shorten_name(groupby))
    return axis


def _choose(table: pd.DataFrame, n_features: int) -> dict[str, list[str]]:
    """Return the best markers of each group."""
    # In a table that was read from a file, names of groups may have become numbers.
    higher = table[table["score"] > 0].astype({"group": str})
    if "domains" in higher:
        higher = higher.assign(lacking=higher["domains"] - higher["domains_higher"]).sort_values("lacking", kind="stable")
    used: set[str] = set()
    chosen: dict[str, list[str]] = {}
    for group, rows in higher.groupby("group", observed=True, sort=False):
        chosen[str(group)] = [name for name in rows["feature"] if name not in used][:n_features]
        used |= set(chosen[str(group)])
    return chosen
