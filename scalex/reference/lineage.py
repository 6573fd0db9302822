"""Files of a growing reference: its versions, and the effect of a continued training on its cells."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from scalex.system.atomic_files import atomic_write

__all__ = ["GROWTH", "LINEAGE", "describe_version", "encode_lineage", "read_json", "write_lineage"]

LINEAGE = "lineage.json"
# Effect of a continued training on the old cells, and whether its model replaces the old one.
GROWTH = "growth.json"


def write_lineage(folder: Path, parent: Sequence[dict[str, Any]], action: str, n_cells: int) -> None:
    """Write to a folder the lineage of a reference: that of its parent and the new version."""
    lineage = [*parent, describe_version(folder.absolute().name, action, n_cells, version("scalex"))]
    with atomic_write(folder / LINEAGE) as path:
        path.write_text(encode_lineage(lineage))


def encode_lineage(lineage: Sequence[dict[str, Any]]) -> str:
    """Return the content of the file of a lineage."""
    return json.dumps(list(lineage), indent=2)


def read_json(path: Path) -> Any:
    """Return the content of a .json file, or None if the file does not exist.

    Raises
    ------
    ValueError
        If the file is not valid JSON.
    """
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is broken ({error}): copy the folder again.") from error


def describe_version(name: str, action: str, n_cells: int, written_by: str) -> dict[str, Any]:
    """Return the entry of one version: the name of its folder, the action, the number of cells and the version of scalex."""
    return {"folder": name, "action": action, "n_cells": n_cells, "version": written_by}
