"""Markdown tables, printed and kept."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path

import torch

__all__ = ["circumstances", "markdown_table", "show"]


def markdown_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a markdown table.

    Parameters
    ----------
    columns
        The header.
    rows
        One text for each column.
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def circumstances() -> str:
    """What the figures depend on besides the machine: version of torch, number of threads, date."""
    return f"torch {torch.__version__}, {torch.get_num_threads()} thread(s), {date.today().isoformat()}"


def show(title: str, text: str, output: Path | None) -> None:
    """Print a section; append it to `output` too, if there is one."""
    section = f"### {title}\n\n{text}\n"
    print(section, flush=True)
    if output is not None:
        with output.open("a") as file:
            file.write(f"{section}\n")
