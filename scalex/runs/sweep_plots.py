"""The plots of a sweep, as what Plotly's JavaScript takes: lists of traces and a layout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, TypedDict

import numpy as np
import pandas as pd

from scalex.runs.sweep_table import Sweep
from scalex.system.overrides import format_value

__all__ = ["Plot", "draw_coordinates", "draw_scores", "draw_settings", "is_number", "write_value"]

# A range of numbers above 0 that is wider than these factors gets a logarithmic axis: fractions, and whole numbers.
LOG_FACTOR = 7.0
LOG_FACTOR_WHOLE = 50.0
# Scores beside those of the sweep among the coordinates, if there are any.
OTHERS = ("total", "entropy_mixing", "kept", "ari", "nmi")
MAX_COORDINATES = 14
MAX_TICKS = 6
# From low to high scores: the best runs stand out.
COLORS = [[0, "#cfd8e3"], [0.5, "#6f9bc8"], [1, "#08306b"]]
FONT = {"family": "system-ui, sans-serif", "size": 12}


class Plot(TypedDict):
    """A plot: its traces, and its axes, size and margins."""

    data: list[dict[str, Any]]
    layout: dict[str, Any]


def is_number(column: pd.Series) -> bool:
    """Return whether all values of a setting are numbers."""
    return all(isinstance(value, int | float | np.number) and not isinstance(value, bool) and not pd.isna(value) for value in column)


def write_value(value: Any) -> str:
    """Return a setting as text. A setting that a run does not have is empty."""
    if isinstance(value, float | np.floating):
        return "null" if math.isnan(value) else f"{value:.4g}"
    return value if isinstance(value, str) else format_value(value.item() if isinstance(value, np.generic) else value)


def draw_settings(sweep: Sweep, score: str) -> Iterator[Plot]:
    """Yield for each setting a plot of the score of each run against it."""
    names = [f"run {name}" for name in sweep.scores.index]
    y = _write_numbers(sweep.scores[score])
    for name in sweep.settings:
        column = sweep.settings[name]
        x = column.tolist() if is_number(column) else [_shorten(write_value(value)) for value in column]
        axis: dict[str, Any] = {"type": "linear" if is_number(column) else "category", "title": {"text": str(name)}, "automargin": True}
        axis["zeroline"] = False
        if _is_wide(column):
            axis["type"] = "log"
        if marks := _mark(column):
            axis |= {"tickvals": marks, "ticktext": [f"{mark:.4g}" for mark in marks], "tickangle": 0}
        marker = {"color": y, "colorscale": COLORS, "size": 8, "line": {"width": 0.5, "color": "#555"}}
        trace = {"type": "scatter", "mode": "markers", "x": x, "y": y, "text": names, "marker": marker, "hoverinfo": "text+x+y"}
        yield Plot(data=[trace], layout=_make_layout(260) | {"xaxis": axis, "yaxis": {"title": {"text": score}}})


def draw_coordinates(sweep: Sweep, scores: Sequence[str]) -> Plot:
    """Return parallel coordinates: a line for each run through its settings and scores, coloured by the first of `scores`."""
    # A line cannot leave out an axis.
    sweep = Sweep(*(table[sweep.scores[list(scores)].notna().all(axis=1)] for table in sweep))
    known = sweep.scores.columns[sweep.scores.notna().all()]
    shown = [*scores, *(name for name in OTHERS if name in known and name not in scores)]
    settings = list(sweep.settings)[: MAX_COORDINATES - len(shown)]
    dimensions = [_make_dimension(str(name), sweep.settings[name]) for name in settings]
    dimensions += [{"label": name, "values": _write_numbers(sweep.scores[name])} for name in shown]
    line = {"color": _write_numbers(sweep.scores[scores[0]]), "colorscale": COLORS, "showscale": False}
    trace = {"type": "parcoords", "dimensions": dimensions, "line": line, "labelangle": -20, "labelside": "top"}
    return Plot(data=[trace], layout=_make_layout(420) | {"margin": {"l": 100, "r": 70, "t": 90, "b": 30}})


def draw_scores(sweep: Sweep, x: str, y: str) -> Plot:
    """Return a plot of two scores of each run. A line joins the runs of which no other is better by both."""
    both = sweep.scores[[x, y]].dropna().sort_values([x, y], ascending=False)
    front = both[both[y] > both[y].cummax().shift(fill_value=-math.inf)]
    names = [f"run {name}" for name in both.index]
    points = {"type": "scatter", "mode": "markers", "x": both[x].tolist(), "y": both[y].tolist(), "text": names, "marker": {"size": 9}}
    line = {"type": "scatter", "mode": "lines", "x": front[x].tolist(), "y": front[y].tolist(), "hoverinfo": "skip"}
    axes = {"xaxis": {"title": {"text": x}}, "yaxis": {"title": {"text": y}}, "showlegend": False}
    return Plot(data=[line, points], layout=_make_layout(420) | axes)


def _make_layout(height: int) -> dict[str, Any]:
    return {"height": height, "margin": {"l": 60, "r": 16, "t": 16, "b": 50}, "font": FONT}


def _make_dimension(name: str, column: pd.Series) -> dict[str, Any]:
    if not is_number(column):
        texts = [write_value(value) for value in column]
        known = list(dict.fromkeys(sorted(texts)))
        ticks = {"tickvals": list(range(len(known))), "ticktext": [_shorten(text, 14) for text in known]}
        return {"label": name, "values": [known.index(text) for text in texts]} | ticks
    scale = np.log10 if _is_wide(column) else np.asarray
    dimension = {"label": name, "values": scale(column.astype(float)).tolist()}
    if marks := _mark(column):
        dimension |= {"tickvals": scale(marks).tolist(), "ticktext": [f"{mark:.4g}" for mark in marks]}
    return dimension


def _is_wide(column: pd.Series) -> bool:
    values = column.astype(float) if is_number(column) else pd.Series([0.0])
    factor = LOG_FACTOR_WHOLE if (values % 1 == 0).all() else LOG_FACTOR
    return bool(values.min() > 0 and values.max() >= factor * values.min())


def _mark(column: pd.Series) -> list[float]:
    """Return the ticks of a logarithmic axis and of a few whole numbers. There are none for other axes, whose ticks Plotly chooses."""
    if _is_wide(column):
        return [float(f"{mark:.2g}") for mark in np.geomspace(float(column.min()), float(column.max()), 4)]
    values = sorted(set(column.astype(float))) if is_number(column) else []
    is_apart = all(after - before >= (values[-1] - values[0]) / MAX_TICKS for before, after in pairwise(values))
    return values if is_apart and all(value % 1 == 0 for value in values) else []


def _write_numbers(column: pd.Series) -> list[float | None]:
    """Return scores as JSON takes them."""
    return [None if pd.isna(value) else float(value) for value in column]


def _shorten(text: str, length: int = 24) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
