"""A page in one file that opens without a network."""

from __future__ import annotations

import html
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any, NamedTuple, TypeAlias

from scalex.system.atomic_files import atomic_write

__all__ = ["Row", "Section", "embed_json", "make_chart", "make_table", "read_warnings", "write_page"]

# Text and numbers of a row of a table.
Row: TypeAlias = Sequence[str | float | int | None]

FOLDER = Path(__file__).parent
# Lines of a log file; see `scalex.runs.log`.
WARNING = re.compile(r"^\S+ \S+ (?:WARNING|ERROR) (.*)$", re.MULTILINE)


class Section(NamedTuple):
    """A section of a page.

    Attributes
    ----------
    title
        Its title.
    body
        Its HTML.
    """

    title: str
    body: str


def write_page(path: Path, title: str, subtitle: str, sections: Iterable[Section], warnings: Sequence[str] = ()) -> None:
    """Write a page.

    Parameters
    ----------
    path
        File of the page.
    title, subtitle
        Text at the top.
    sections
        The sections. Those without a body are left out.
    warnings
        Lines of text at the top, such as the warnings of a log.
    """
    # plotly takes tenths of a second to import.
    from plotly.offline import get_plotlyjs

    shown = [one for one in sections if one.body]
    lines = "".join(f"<li>{html.escape(line)}</li>" for line in dict.fromkeys(warnings))
    text = Template((FOLDER / "page.html").read_text()).substitute(
        title=html.escape(title),
        subtitle=html.escape(subtitle),
        style=(FOLDER / "page.css").read_text(),
        plotly=get_plotlyjs(),
        links=" ".join(f'<a href="#section{n}">{html.escape(one.title)}</a>' for n, one in enumerate(shown)),
        warnings=f'<div class="warnings"><strong>Look at these first</strong><ul>{lines}</ul></div>' if lines else "",
        sections="".join(
            f'<section id="section{n}"><h2>{html.escape(one.title)}</h2>{one.body}</section>\n' for n, one in enumerate(shown)
        ),
        script=(FOLDER / "page.js").read_text(),
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def make_chart(figure: Mapping[str, Any], *, min_width: int = 0) -> str:
    """Return a chart of plotly as HTML. On a screen that is too narrow for it, it scrolls.

    Parameters
    ----------
    figure
        "data" and "layout" as JSON has them, such as `plotly.graph_objects.Figure.to_plotly_json`.
    min_width
        Smallest width in pixels.
    """
    style = f' style="min-width:{min_width}px"' if min_width else ""
    return f'<div class="scroll"><div class="chart"{style}>{embed_json(figure)}</div></div>'


def embed_json(value: Any, name: str = "") -> str:
    """Return an element that holds a value for the scripts of a page, with `name` as its id.

    Raises
    ------
    ValueError
        If a number is not finite: JSON has no such numbers.
    """
    # A "</script>" in a text would end the element.
    text = json.dumps(value, allow_nan=False).replace("<", "\\u003c")
    attribute = f' id="{name}"' if name else ""
    return f'<script type="application/json"{attribute}>{text}</script>'


def _write(value: str | float | int) -> str:
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else value


def make_table(
    columns: Sequence[str], rows: Iterable[Row], *, write: Callable[[str | float | int], str] = _write, sortable: bool = False
) -> str:
    """Return a table as HTML. Numbers are aligned to the right, and None is empty.

    Parameters
    ----------
    columns
        Titles of the columns.
    rows
        The cells of each row, as plain text or numbers.
    write
        Returns a cell as text.
    sortable
        Whether a click on the title of a column sorts the rows, numbers by all their digits.
    """

    def make_cell(value: str | float | int | None, kind: str) -> str:
        text = "" if value is None else html.escape(write(value))
        # A sorted table shows a long text in one line.
        hidden = "" if not sortable or value is None else f' title="{text}"' if isinstance(value, str) else f' data-value="{value}"'
        return f"<td{kind}{hidden}>{text}</td>"

    table = ' class="sortable"' if sortable else ""
    kept = [list(row) for row in rows]
    numeric = [all(isinstance(row[n], int | float | None) for row in kept) for n in range(len(columns))]
    classes = [' class="number"' if one else "" for one in numeric]
    titles = [f"<button>{html.escape(name)}</button>" if sortable else html.escape(name) for name in columns]
    head = "".join(f"<th{kind}>{title}</th>" for title, kind in zip(titles, classes, strict=True))
    body = "".join(f"<tr>{''.join(map(make_cell, row, classes))}</tr>\n" for row in kept)
    return f'<div class="scroll"><table{table}><thead><tr>{head}</tr></thead><tbody>\n{body}</tbody></table></div>'


def read_warnings(log: Path) -> list[str]:
    """Return the warnings of a log file, or nothing if there is none."""
    return WARNING.findall(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
