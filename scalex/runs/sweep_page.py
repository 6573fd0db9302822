"""The page of a sweep, ``sweep.html``: one file that opens without a network."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from html import escape
from io import BytesIO
from pathlib import Path
from string import Template
from typing import Any

import pandas as pd
from PIL import Image

from scalex.runs.failed_runs import read_failed_runs
from scalex.runs.sweep_plots import Plot, draw_coordinates, draw_scores, draw_settings, is_number, write_value
from scalex.runs.sweep_table import Sweep, read_sweep, write_sweep_table
from scalex.system.atomic_files import atomic_write

__all__ = ["PAGE", "write_sweep", "write_sweep_page"]

PAGE = "sweep.html"
TEMPLATE = Path(__file__).with_name("sweep_page.html")
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
    plots: list[Plot] = []
    content = [_show_best(folder, sweep, scores[0]), _show_plots(plots, sweep, scores)] if scores else []
    content += [_show_seeds(sweep, scores), _show_runs(sweep, scores), _show_failed(failed)]
    text = Template(TEMPLATE.read_text(encoding="utf-8")).substitute(
        title=escape(f"Sweep {folder.resolve().name}"),
        summary=escape(_summarize(sweep, failed, scores)),
        content="\n".join(content),
        library=f"<script>{_read_library()}</script>" if plots else "",
        plots=_write_json([(f"plot{n}", plot.data, plot.layout) for n, plot in enumerate(plots)]),
    )
    with atomic_write(folder / PAGE) as path:
        path.write_text(text, encoding="utf-8")


def _summarize(sweep: Sweep, failed: Mapping[str, str], scores: Sequence[str]) -> str:
    n_finished = len(sweep.scores)
    counts = f"{n_finished} finished run{'' if n_finished == 1 else 's'}{f', {len(failed)} failed' if failed else ''}."
    if not scores:
        return counts
    values = sweep.scores[scores[0]]
    return f"{counts} Run {values.idxmax()} has the best {scores[0]}: {values.max():.4f}."


def _show_best(folder: Path, sweep: Sweep, score: str) -> str:
    """Return the UMAPs of the best and the worst run, if there are any."""
    values = sweep.scores[score].dropna()
    figures = ""
    for word, name in dict.fromkeys([("Best", str(values.idxmax()))] + [("Worst", str(values.idxmin()))] * (len(values) > 1)):
        image = _read_image(folder / name / "umap.png")
        settings = ", ".join(f"{one}={write_value(value)}" for one, value in sweep.settings.loc[name].items())
        caption = f"<b>{word}: run {escape(name)}, {escape(score)} {values[name]:.4f}</b><br>{escape(settings)}"
        if image:
            text = f"The UMAP of run {escape(name)}"
            figures += f'<figure><figcaption>{caption}</figcaption><img alt="{text}" src="{image}"></figure>\n'
    return f'<h2>Best and worst run</h2>\n<div class="pair">{figures}</div>' if figures else ""


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


def _show_plots(plots: list[Plot], sweep: Sweep, scores: Sequence[str]) -> str:
    """Return the places of the plots, which are added to `plots`."""
    text = ""
    if len(scores) > 1 and len(sweep.scores) > 1:
        text += f"<h2>{escape(' and '.join(scores[:2]))}</h2>\n{_place(plots, draw_scores(sweep, *scores[:2]))}\n"
    if len(sweep.settings.columns):
        coordinates = draw_coordinates(sweep, scores)
        # On a narrow screen it scrolls, since its axes could not be read.
        style = f"min-width: {110 * len(coordinates.data[0]['dimensions'])}px"
        text += f"<h2>Settings and scores</h2>\n{NOTE}\n" + f'<div class="wide">{_place(plots, coordinates, style)}</div>\n'
        places = "".join(_place(plots, plot) for plot in draw_settings(sweep, scores[0]))
        text += f'<h2>{escape(scores[0])} against each setting</h2>\n<div class="grid">{places}</div>\n'
    return text


def _place(plots: list[Plot], plot: Plot, style: str = "") -> str:
    plots.append(plot)
    return f'<div id="plot{len(plots) - 1}" style="{style}"></div>'


def _show_seeds(sweep: Sweep, scores: Sequence[str]) -> str:
    """Return a table of means over the seeds, if a sweep has several seeds with the same settings."""
    others = [name for name in sweep.settings if name != "seed"]
    if "seed" not in sweep.settings or not others or not scores:
        return ""
    groups = sweep.scores[list(scores)].groupby([sweep.settings[name].map(write_value) for name in others], sort=False)
    table = pd.concat({name: groups[name].agg(["mean", "std"]) for name in scores}, axis=1)
    table.columns = pd.Index([name if kind == "mean" else f"{name}, standard deviation" for name, kind in table.columns])
    table.insert(0, "runs", groups.size())
    table = table.sort_values(scores[0], ascending=False).reset_index()
    return f"<h2>Means over the seeds</h2>\n{_write_table(table)}" if (table["runs"] > 1).any() else ""


def _show_runs(sweep: Sweep, scores: Sequence[str]) -> str:
    if not len(sweep.scores):
        return ""
    rest = [name for name in sweep.scores if name not in scores]
    table = sweep.settings.join(sweep.scores[[*scores, *rest]])
    table.insert(0, "run", table.index)
    if scores:
        table = table.sort_values(scores[0], ascending=False, kind="stable")
    return f"<h2>Runs</h2>\n{_write_table(table)}"


def _write_table(table: pd.DataFrame) -> str:
    kinds = ("" if is_number(table[name].dropna()) else ' class="text"' for name in table)
    heads = "".join(f'<th scope="col"{kind}><button>{escape(str(name))}</button></th>' for name, kind in zip(table, kinds, strict=True))
    rows = "".join(f"<tr>{''.join(map(_write_cell, row))}</tr>\n" for row in table.itertuples(index=False, name=None))
    return f'<div class="wide"><table class="sortable">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>'


def _write_cell(value: Any) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        # A number is sorted by all its digits.
        return "<td></td>" if pd.isna(value) else f'<td data-value="{value}">{write_value(value)}</td>'
    text = escape(write_value(value))
    return f'<td class="text" title="{text}">{text}</td>'


def _show_failed(failed: Mapping[str, str]) -> str:
    rows = "".join(f'<tr><td>{escape(name)}</td><td class="message">{escape(text)}</td></tr>\n' for name, text in failed.items())
    return f"<h2>Failed runs</h2>\n<table>\n<tbody>\n{rows}</tbody>\n</table>" if failed else ""


def _read_library() -> str:
    """Return Plotly's JavaScript."""
    from plotly.offline import get_plotlyjs

    return str(get_plotlyjs())


def _write_json(value: Any) -> str:
    # A setting could end the script otherwise.
    return json.dumps(value, allow_nan=False).replace("<", "\\u003c")
