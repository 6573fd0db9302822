"""The lineage of a reference: the versions that led to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scalex.system.atomic_files import atomic_write

__all__ = ["GROWTH", "LINEAGE", "describe_version", "read_json", "write_lineage"]

LINEAGE = "lineage.json"
# How the old cells of a continued training moved, and whether its model replaces the old one.
GROWTH = "growth.json"


def write_lineage(folder: Path, parent: Sequence[dict[str, Any]], action: str, n_cells: int) -> None:
    """Write the versions of a reference that led to a folder, and the folder's own."""
    lineage = [*parent, describe_version(folder, action, n_cells, version("scalex"))]
    with atomic_write(folder / LINEAGE) as path:
        path.write_text(json.dumps(lineage, indent=2))


def read_json(path: Path) -> Any:
    """Read a .json file; None if there is none."""
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged ({error}): copy the folder again.") from error


def describe_version(folder: Path, action: str, n_cells: int, written_by: str) -> dict[str, Any]:
    """Describe a version: the name of its folder, how it was made, its number of cells and the version of scalex."""
    return {"folder": folder.absolute().name, "action": action, "n_cells": n_cells, "version": written_by}
