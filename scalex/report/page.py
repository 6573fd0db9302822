"""A page in one file that opens without a network."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from string import Template
from typing import NamedTuple, TypeAlias

from scalex.system.atomic_files import atomic_write

__all__ = ["Row", "Section", "make_table", "read_warnings", "write_page"]

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
        script=(FOLDER / "cells.js").read_text(),
    )
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def make_table(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """Return a table as HTML. Numbers are aligned to the right, and None is empty.

    Parameters
    ----------
    columns
        Titles of the columns.
    rows
        The cells of each row, as plain text or numbers.
    """
    kept = [list(row) for row in rows]
    numeric = [all(isinstance(row[n], int | float | None) for row in kept) for n in range(len(columns))]
    classes = [' class="number"' if one else "" for one in numeric]
    head = "".join(f"<th{kind}>{html.escape(name)}</th>" for name, kind in zip(columns, classes, strict=True))
    body = "".join(
        "<tr>" + "".join(f"<td{kind}>{_write(one)}</td>" for one, kind in zip(row, classes, strict=True)) + "</tr>" for row in kept
    )
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'


def _write(value: str | float | int | None) -> str:
    if value is None:
        return ""
    if isinstance(value, float):
        return f"{value:.3f}"
    return f"{value:,}" if isinstance(value, int) else html.escape(value)


def read_warnings(log: Path) -> list[str]:
    """Return the warnings of a log file, or nothing if there is none."""
    return WARNING.findall(log.read_text(encoding="utf-8", errors="replace")) if log.exists() else []
