"""Charts of a report as HTML, by plotly."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pandas as pd

from scalex.pages.page import make_chart
from scalex.pl.colors import choose_styles
from scalex.system.figure_text import shorten_names

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

__all__ = ["draw_composition", "draw_confusion", "draw_curves", "draw_histogram"]

# Pixels of a bar, and of what is around the bars.
BAR = 22
AROUND = 110


def _make_chart(figure: Figure, height: int, *, min_width: int = 0) -> str:
    figure.update_layout(height=height, template="plotly_white", margin={"l": 10, "r": 10, "t": 30, "b": 40}, legend={"font": {"size": 11}})
    figure.update_yaxes(automargin=True)
    return make_chart(json.loads(figure.to_json()), min_width=min_width)


def draw_composition(group: pd.Series, domain: pd.Series) -> str:
    """Return stacked bars of the shares of the domains in each group, or nothing if there is one domain.

    Parameters
    ----------
    group, domain
        (n_cells,) group and domain of each cell.
    """
    from plotly import graph_objects as go

    counts = pd.crosstab(group, domain)
    if len(counts.columns) < 2:
        return ""
    shares = counts.div(counts.sum(axis=1), axis=0)
    names = shorten_names(counts.columns)
    styles = choose_styles(names)
    rows = [f"{name} ({n:,})" for name, n in zip(shorten_names(counts.index), counts.sum(axis=1), strict=True)]
    figure = go.Figure(
        [
            go.Bar(
                y=rows, x=shares[column], name=name, orientation="h", marker_color=styles[name].color,
                customdata=counts[column], hovertemplate="%{y}: %{x:.1%} " + name.replace("%", "") + " (%{customdata:,})<extra></extra>",
            )
            for name, column in zip(names, counts.columns, strict=True)
        ]
    )  # fmt: skip
    figure.update_layout(barmode="stack", legend_traceorder="normal", xaxis={"range": [0, 1], "tickformat": ".0%"}, bargap=0.15)
    figure.update_yaxes(autorange="reversed", type="category")
    return _make_chart(figure, AROUND + BAR * len(rows))


def draw_curves(table: pd.DataFrame, columns: list[str]) -> str:
    """Return a chart for each of some columns of the table of epochs, over its steps.

    Parameters
    ----------
    table
        A row for each epoch, with the column "step".
    columns
        Columns to draw.
    """
    from plotly import graph_objects as go
    from plotly.subplots import make_subplots

    figure = make_subplots(rows=1, cols=len(columns), subplot_titles=[name.replace("_", " ") for name in columns])
    for n, name in enumerate(columns, 1):
        line = go.Scatter(x=table["step"], y=table[name], mode="lines+markers" if len(table) < 2 else "lines", line_color="#0072B2")
        figure.add_trace(line, row=1, col=n)
    figure.update_xaxes(title_text="step")
    figure.update_layout(showlegend=False)
    return _make_chart(figure, 290, min_width=230 * len(columns))


def draw_histogram(groups: dict[str, pd.Series], limit: float, label: str) -> str:
    """Return histograms of values of several groups, with a line at a limit.

    Parameters
    ----------
    groups
        Values by the name of the group; the first is drawn in grey.
    limit
        Where the line is.
    label
        Text at the axis of the values.
    """
    from plotly import graph_objects as go

    names = list(groups)
    styles = choose_styles(shorten_names(names[1:]))
    last = max(2 * limit, *(float(values.quantile(0.98)) for values in groups.values() if len(values)))
    figure = go.Figure()
    for n, (name, shown) in enumerate(zip(names, shorten_names(names), strict=True)):
        color = "#C8C8C8" if n == 0 else styles[shorten_names(names[1:])[n - 1]].color
        bins = {"start": 0, "end": last, "size": last / 60}
        figure.add_trace(
            go.Histogram(
                x=groups[name].clip(upper=last * 0.999), name=shown, histnorm="probability", xbins=bins, marker_color=color, opacity=0.6
            )
        )
    figure.add_vline(limit, line_dash="dot", line_color="black")
    figure.update_layout(barmode="overlay", xaxis_title=label, yaxis={"title": "share of the cells", "tickformat": ".0%"})
    return _make_chart(figure, 360)


def draw_confusion(given: pd.Series, found: pd.Series) -> str:
    """Return a table of colours: for each given type, the share of its cells that each label has.

    Parameters
    ----------
    given, found
        (n_cells,) given type and transferred label of each cell.
    """
    from plotly import graph_objects as go

    counts = pd.crosstab(given, found)
    shares = counts.div(counts.sum(axis=1), axis=0)
    rows = [f"{name} ({n:,})" for name, n in zip(shorten_names(counts.index), counts.sum(axis=1), strict=True)]
    figure = go.Figure(
        go.Heatmap(
            z=shares.to_numpy(), x=shorten_names(counts.columns), y=rows, zmin=0, zmax=1, colorscale="Blues", customdata=counts.to_numpy(),
            hovertemplate="%{y} labelled %{x}: %{z:.1%} (%{customdata:,})<extra></extra>",
        )
    )  # fmt: skip
    figure.update_xaxes(title_text="transferred label", type="category", automargin=True)
    figure.update_yaxes(title_text="given", autorange="reversed", type="category")
    return _make_chart(figure, 2 * AROUND + BAR * len(rows))
