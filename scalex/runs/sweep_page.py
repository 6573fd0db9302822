"""The page of a sweep, ``sweep.html``: one file that opens without a network."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import pandas as pd
from PIL import Image

from scalex.pages.page import Section, make_chart, make_table, write_page
from scalex.runs.failed_runs import read_failed_runs
from scalex.runs.sweep_plots import draw_coordinates, draw_scores, draw_settings, write_value
from scalex.runs.sweep_table import Sweep, read_sweep, write_sweep_table

__all__ = ["PAGE", "write_sweep", "write_sweep_page"]

PAGE = "sweep.html"
# Pixels of the longer side of a UMAP.
IMAGE_SIZE = 1400
NOTE = '<p class="note">Each line is a run. Drag along an axis to select runs, and the name of an axis to move it.</p>'


def write_sweep(folder: Path, scores: Sequence[str]) -> None:
    """Write table and page of the sweep in a folder. The parameters are those of `write_sweep_page`."""
    write_sweep_table(folder)
    write_sweep_page(folder, scores)


def write_sweep_page(folder: Path, scores: Sequence[str]) -> None:
    """Write ``sweep.html`` with the finished and failed runs in a folder. Without any, no file is written.

    Parameters
    ----------
    folder
        The folder of the sweep.
    scores
        Names of the scores of interest. The first one ranks the runs.
    """
    sweep, failed = read_sweep(folder), read_failed_runs(folder)
    if not len(sweep.scores) and not failed:
        return
    scores = [name for name in scores if name in sweep.scores and sweep.scores[name].notna().any()]
    sections = [*_show_best(folder, sweep, scores[0]), *_show_plots(sweep, scores)] if scores else []
    sections += [*_show_seeds(sweep, scores), *_show_runs(sweep, scores), *_show_failed(failed)]
    write_page(folder / PAGE, f"Sweep {folder.resolve().name}", _summarize(sweep, failed, scores), sections)


def _summarize(sweep: Sweep, failed: Mapping[str, str], scores: Sequence[str]) -> str:
    n_finished = len(sweep.scores)
    counts = f"{n_finished} finished run{'' if n_finished == 1 else 's'}{f', {len(failed)} failed' if failed else ''}."
    if not scores:
        return counts
    values = sweep.scores[scores[0]]
    return f"{counts} Run {values.idxmax()} has the best {scores[0]}: {values.max():.4f}."


def _show_best(folder: Path, sweep: Sweep, score: str) -> Iterator[Section]:
    """Yield the UMAPs of the best and the worst run, if there are any."""
    values = sweep.scores[score].dropna()
    figures = ""
    for word, name in dict.fromkeys([("Best", str(values.idxmax()))] + [("Worst", str(values.idxmin()))] * (len(values) > 1)):
        image = _read_image(folder / name / "umap.png")
        settings = ", ".join(f"{one}={write_value(value)}" for one, value in sweep.settings.loc[name].items())
        caption = f"<b>{word}: run {escape(name)}, {escape(score)} {values[name]:.4f}</b><br>{escape(settings)}"
        if image:
            text = f"The UMAP of run {escape(name)}"
            figures += f'<figure><figcaption>{caption}</figcaption><img alt="{text}" src="{image}"></figure>\n'
    if figures:
        yield Section("Best and worst run", f'<div class="pair">{figures}</div>')


def _read_image(path: Path) -> str:
    """Return a figure as the address of an image that holds it, or nothing if there is none."""
    if not path.exists():
        return ""
    stored = BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((IMAGE_SIZE, IMAGE_SIZE))
        # The clusters of a UMAP have few colours.
        small.quantize(128).save(stored, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(stored.getvalue()).decode()}"


def _show_plots(sweep: Sweep, scores: Sequence[str]) -> Iterator[Section]:
    if len(scores) > 1 and len(sweep.scores) > 1:
        yield Section(" and ".join(scores[:2]), make_chart(draw_scores(sweep, *scores[:2])))
    if len(sweep.settings.columns):
        coordinates = draw_coordinates(sweep, scores)
        # On a narrow screen it scrolls, since its axes could not be read.
        yield Section("Settings and scores", NOTE + make_chart(coordinates, min_width=110 * len(coordinates["data"][0]["dimensions"])))
        charts = "".join(make_chart(plot) for plot in draw_settings(sweep, scores[0]))
        yield Section(f"{scores[0]} against each setting", f'<div class="grid">{charts}</div>')


def _show_seeds(sweep: Sweep, scores: Sequence[str]) -> Iterator[Section]:
    """Yield a table of means over the seeds, if a sweep has several seeds with the same settings."""
    others = [name for name in sweep.settings if name != "seed"]
    if "seed" not in sweep.settings or not others or not scores:
        return
    groups = sweep.scores[list(scores)].groupby([sweep.settings[name].map(write_value) for name in others], sort=False)
    table = pd.concat({name: groups[name].agg(["mean", "std"]) for name in scores}, axis=1)
    table.columns = pd.Index([name if kind == "mean" else f"{name}, standard deviation" for name, kind in table.columns])
    table.insert(0, "runs", groups.size())
    table = table.sort_values(scores[0], ascending=False).reset_index()
    if (table["runs"] > 1).any():
        yield Section("Means over the seeds", _make_table(table))


def _show_runs(sweep: Sweep, scores: Sequence[str]) -> Iterator[Section]:
    if not len(sweep.scores):
        return
    rest = [name for name in sweep.scores if name not in scores]
    table = sweep.settings.join(sweep.scores[[*scores, *rest]])
    table.insert(0, "run", table.index)
    if scores:
        table = table.sort_values(scores[0], ascending=False, kind="stable")
    yield Section("Runs", _make_table(table))


def _make_table(table: pd.DataFrame) -> str:
    rows = (map(_to_cell, row) for row in table.itertuples(index=False, name=None))
    return make_table([str(name) for name in table], map(list, rows), write=write_value, sortable=True)


def _to_cell(value: Any) -> str | float | int | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return None if pd.isna(value) else value
    return write_value(value)


def _show_failed(failed: Mapping[str, str]) -> Iterator[Section]:
    if failed:
        yield Section("Failed runs", make_table(["run", "message"], failed.items()))
