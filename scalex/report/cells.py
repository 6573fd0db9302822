"""Maps of cells that the reader colours by a column."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

from scalex.pages.page import embed_json
from scalex.pl.colors import choose_styles
from scalex.system.figure_text import shorten_names

__all__ = ["MAX_POINTS", "choose_columns", "make_maps"]

# More cells than this make the file large and the page slow, so a sample is drawn.
MAX_POINTS = 200_000
# A column of more groups could not be read, and each column of many cells takes half a megabyte.
MAX_GROUPS = 100
MAX_COLUMNS = 40
# Share of the cells on each side that may lie beyond the first view.
FAR = 0.002
# Symbols of plotly in the order of the markers of `scalex.pl.colors`.
SYMBOLS: Mapping[str, str] = {
    "o": "circle", "^": "triangle-up", "s": "square", "D": "diamond", "v": "triangle-down", "P": "cross", "X": "x", "*": "star",
}  # fmt: skip


def choose_columns(obs: pd.DataFrame, first: tuple[str, ...]) -> dict[str, pd.Series]:
    """Return up to 40 columns of obs that a map can be coloured by, the named ones first: numbers, and groups of which there are few."""
    order = [*(name for name in first if name in obs), *(name for name in obs if name not in first)]
    return {str(name): obs[name] for name in islice((name for name in order if _is_drawn(obs[name])), MAX_COLUMNS)}


def _is_drawn(column: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(column.dtype) or isinstance(column.dtype, pd.CategoricalDtype):
        return bool(1 <= column.nunique() <= MAX_GROUPS)
    if pd.api.types.is_numeric_dtype(column.dtype):
        return bool(column.notna().any())
    return bool(column.dtype.kind in "OUT" and 1 <= column.nunique() <= MAX_GROUPS)


def make_maps(
    points: ArrayLike, columns: Mapping[str, pd.Series], *, behind: ArrayLike | None = None, shown: tuple[int, int] = (0, 1), seed: int = 0
) -> str:
    """Return two maps of cells as HTML. The reader chooses what each is coloured by.

    Parameters
    ----------
    points
        (n_cells, 2) coordinates.
    columns
        (n_cells,) groups or numbers, by their names.
    behind
        (n_others, 2) coordinates of cells that are drawn in grey behind them, or None.
    shown
        Numbers of the columns that the maps show first.
    seed
        Seed of the order in which cells are drawn, and of the sample of more than 200,000.
    """
    points = np.asarray(points, np.float32)
    rng = np.random.default_rng(seed)
    rows = rng.permutation(len(points))[:MAX_POINTS]
    others = None if behind is None else np.asarray(behind, np.float32)
    if others is not None:
        others = others[rng.permutation(len(others))[:MAX_POINTS]]
    every = points if others is None else np.concatenate([points, others])
    view = _choose_view(every)
    data: dict[str, Any] = {
        "x": _encode_coordinate(points[rows, 0]) | {"view": view[0]},
        "y": _encode_coordinate(points[rows, 1]) | {"view": view[1]},
        "size": float(np.clip(400 / np.sqrt(max(len(every), 1)), 2, 7)),
        "behind": None if others is None else {"x": _encode_coordinate(others[:, 0]), "y": _encode_coordinate(others[:, 1])},
        "columns": [_encode_column(name, values.iloc[rows]) for name, values in columns.items()],
    }
    note = "" if len(rows) == len(points) else f"<p>A random sample of {len(rows):,} of {len(points):,} cells.</p>"
    boxes = "".join(
        f'<div class="map" data-column="{n}"><label>Colour: <select></select></label><div class="plot"></div></div>' for n in shown
    )
    script = Path(__file__).with_name("cells.js").read_text()
    return (
        f'{note}<div class="maps">{boxes}</div><p>A click on a name of the legend hides its cells, a double click shows it alone. '
        f"The wheel zooms.</p>{embed_json(data, 'cells')}<script>{script}</script>"
    )


def _choose_view(points: NDArray[np.float32]) -> list[list[float]]:
    """Return a range of each coordinate that shows nearly all cells."""
    low, high = np.quantile(points, [FAR, 1 - FAR], axis=0)
    margin = 0.06 * np.maximum(high - low, 1e-6)
    return [[float(a), float(b)] for a, b in zip(low - margin, high + margin, strict=True)]


def _encode_coordinate(values: NDArray[np.float32]) -> dict[str, Any]:
    low, high = (float(values.min()), float(values.max())) if len(values) else (0.0, 1.0)
    high = max(high, low + 1e-6)
    return {"values": _encode(np.round((values - low) / (high - low) * 65535), np.uint16), "range": [low, high]}


def _encode_column(name: str, column: pd.Series) -> dict[str, Any]:
    if pd.api.types.is_numeric_dtype(column.dtype) and not pd.api.types.is_bool_dtype(column.dtype):
        values = column.to_numpy(float, na_value=np.nan)
        known = values[np.isfinite(values)]
        low, high = (float(one) for one in (np.quantile(known, [0.001, 0.999]) if len(known) else (0, 1)))
        high = max(high, low + 1e-9)
        scaled = np.clip((np.nan_to_num(values, nan=low) - low) / (high - low), 0, 1)
        return {"name": name, "values": _encode(np.round(scaled * 255), np.uint8), "range": [low, high]}
    texts = column.astype(object).where(column.notna(), "(none)").astype(str)
    order = map(str, column.cat.categories) if isinstance(column.dtype, pd.CategoricalDtype) else sorted(texts.unique())
    groups = pd.Categorical(texts, list(dict.fromkeys([*order, "(none)"]))).remove_unused_categories()
    names = shorten_names(groups.categories, 40)
    styles = choose_styles(names)
    counts = np.bincount(groups.codes, minlength=len(names))
    return {
        "name": name,
        "names": names,
        "counts": counts.tolist(),
        "colors": ["#B8B8B8" if one == "(none)" else styles[one].color for one in names],
        "symbols": [SYMBOLS[styles[one].marker] for one in names],
        "values": _encode(groups.codes, np.uint16),
    }


def _encode(values: ArrayLike, kind: type[np.unsignedinteger[Any]]) -> str:
    # Browsers read numbers in the order of bytes of the machine, which is little-endian nearly everywhere.
    return base64.b64encode(np.asarray(values).astype(np.dtype(kind).newbyteorder("<")).tobytes()).decode()
