"""The report of a projection."""

from __future__ import annotations

import html
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
from anndata.io import read_elem
from numpy.typing import NDArray

from scalex.pages.page import Row, Section, make_table, read_warnings, write_page
from scalex.report.cells import choose_columns, make_maps
from scalex.report.charts import draw_composition, draw_confusion, draw_histogram
from scalex.report.parts import make_settings, make_versions

__all__ = ["write_projection_report"]


def write_projection_report(
    folder: Path,
    results: Path,
    numbers: Mapping[str, Any],
    *,
    umap: NDArray[np.float32] | None,
    own_distance: NDArray[np.float32],
    limit: float,
    seed: int = 0,
) -> None:
    """Write ``report.html`` to the folder of a projection.

    Parameters
    ----------
    folder
        Folder of the projection, with ``log.txt``.
    results
        File with the new cells: obs, uns and, if there is a UMAP, obsm["X_umap"]. Cells of the reference are left out.
    numbers
        Numbers of the mapping report; see `scalex.projection.report.Tally.make_report`.
    umap
        (n_reference, 2) UMAP coordinates of cells of the reference, or None.
    own_distance, limit
        (n_held_out,) distances of held-out reference cells, and the distance above which a cell is outside.
    seed
        Seed of the samples.
    """
    with h5py.File(results) as file:
        obs: pd.DataFrame = read_elem(file["obs"])
        points = file["obsm/X_umap"][()] if "obsm/X_umap" in file else None
        parameters = read_elem(file["uns/scalex/parameters"]) if "uns/scalex/parameters" in file else {}
    is_new = (obs["projection"] == "query").to_numpy()
    obs = obs[is_new]
    label = next(iter(numbers["labels"]), None)
    sections = [
        Section("Do the cells fit?", _make_fit(numbers)),
        Section("Cells", "" if points is None or umap is None else _make_cells(points[is_new], obs, umap, label, seed)),
        Section("Distances", _make_distances(obs, own_distance, limit)),
        Section("Labels", "" if label is None else _make_labels(obs, label)),
        Section("Domains in the clusters", draw_composition(obs["leiden"], obs["domain"]) if "leiden" in obs else ""),
        Section("Features", _make_features(numbers["features"])),
        make_settings(parameters),
        make_versions(),
    ]
    subtitle = f"{len(obs):,} new cells, projected into {numbers['reference']['folder']} ({numbers['reference']['n_cells']:,} cells)"
    write_page(folder / "report.html", f"SCALEX: {folder.resolve().name}", subtitle, sections, read_warnings(folder / "log.txt"))


def _make_fit(numbers: Mapping[str, Any]) -> str:
    rows: list[Row] = []
    domains = numbers["domains"]
    for name, one in (domains if len(domains) == 1 else {"all cells": numbers["cells"], **domains}).items():
        share = None if one["share_outside"] is None else f"{one['share_outside']:.1%}"
        rows.append([name, one["n_cells"], one["median_distance"], share, one["mixing"], one["n_filtered"]])
    table = make_table(["domain", "cells", "median distance", "outside", "mixing with the reference", "with few features"], rows)
    text = (
        "<p>A distance of 1 is the median of the reference's own cells to their nearest others. Outside are cells that lie farther than "
        "99 % of them. Mixing is 1 where new cells and those of the reference are spread evenly among each other, and 0 where they lie "
        "apart: the reference may then know no technology like this. From a few hundred reference cells it is low even if the distance is "
        "below 1.</p>"
    )
    return table + text + _make_adapter(numbers["adapter"])


def _make_adapter(adapter: Mapping[str, Any] | None) -> str:
    if adapter is None:
        return ""
    rows: list[Row] = [
        [name, one["n_cells"], float(one["mixing"]["before"]), float(one["mixing"]["after"])] for name, one in adapter["domains"].items()
    ]
    columns = ["domain of the adapter", "fitted to cells", "mixing without it", "mixing with it"]
    return make_table(columns, rows) + "<p>An adapter removes what its domain does to all cells.</p>"


def _make_cells(points: NDArray[np.float32], obs: pd.DataFrame, umap: NDArray[np.float32], label: str | None, seed: int) -> str:
    first = ("domain", *([] if label is None else [f"{label}_label", f"{label}_probability", label]), "distance", "leiden")
    columns = choose_columns(obs.drop(columns=["projection"]), first)
    return make_maps(points, columns, behind=umap, shown=(0, min(1, len(columns) - 1)), seed=seed)


def _make_distances(obs: pd.DataFrame, own_distance: NDArray[np.float32], limit: float) -> str:
    largest = sorted(obs["domain"].value_counts().index[:10], key=str)
    groups = {"reference, held out": pd.Series(own_distance)}
    groups |= {str(name): obs.loc[obs["domain"] == name, "distance"] for name in largest}
    return draw_histogram(groups, limit, "distance to the reference (dotted: outside)")


def _make_labels(obs: pd.DataFrame, label: str) -> str:
    found = obs.groupby(f"{label}_label", observed=True)[f"{label}_probability"].agg(["size", "mean"]).sort_values("size", ascending=False)
    rows: list[Row] = [[str(name), int(row["size"]), f"{row['size'] / len(obs):.1%}", float(row["mean"])] for name, row in found.iterrows()]
    text = make_table([label, "cells", "share", "mean probability"], rows)
    text += (
        "<p><code>unknown</code>: a group of cells that lies at least twice as far from all types as the others of its domain. The "
        "reference hardly has its type.</p>"
    )
    if label in obs and obs[label].notna().any() and obs[label].nunique() <= 100:
        known = obs[label].notna()
        text += f"<p>Labels of the cells whose <code>{html.escape(label)}</code> was given:</p>"
        text += draw_confusion(obs.loc[known, label].astype(str), obs.loc[known, f"{label}_label"].astype(str))
    return text


def _make_features(features: Mapping[str, Any]) -> str:
    shares = f"{features['share_found']:.1%}; weighted by their use in the encoder {features['share_found_weighted']:.1%}"
    text = f"<p>{features['n_found']:,} of the {features['n_used']:,} features of the model are in the new cells ({shares}). "
    text += "The mean of the training cells replaces the others.</p>"
    if features["most_used_missing"]:
        names = ", ".join(html.escape(str(name)) for name in features["most_used_missing"])
        text += f"<p>The most used of the missing ones: {names}.</p>"
    return text
