"""Markdown tables."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["markdown_table", "mean_and_spread", "show"]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return rows of text as a markdown table.

    Parameters
    ----------
    columns
        The header.
    rows
        One text for each column.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def mean_and_spread(values: Sequence[float], digits: int = 3) -> str:
    """Return the mean and, of several values, the standard deviation: 0.812 ± 0.003. Return "" if a value is not a number.

    Parameters
    ----------
    values
        Values of the same figure, such as those of several seeds.
    digits
        Number of digits after the point.
    """
    found = np.asarray(values, float)
    if not len(found) or np.isnan(found).any():
        return ""
    mean = f"{found.mean():.{digits}f}"
    return mean if len(found) == 1 else f"{mean} ± {found.std(ddof=1):.{digits}f}"


def show(title: str, text: str, output: Path | None) -> None:
    """Print a section and, if there is an `output`, append it to that file."""
    section = f"### {title}\n\n{text}\n"
    print(section, flush=True)
    if output is not None:
        with output.open("a") as file:
            file.write(f"{section}\n")
