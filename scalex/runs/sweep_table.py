"""Table of a sweep: the settings that differ between its runs, and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from scalex.runs.folder import COMPOSED, FINISHED
from scalex.system.atomic_files import atomic_write

__all__ = ["write_sweep_table"]


def write_sweep_table(folder: str | Path) -> pd.DataFrame:
    """Write ``sweep.csv`` with one row for each finished run in `folder`, and return the table. Without finished runs, no file is written.

    The columns are the settings that differ between the runs, and the scores. Each call reads the files of all runs, so that runs may
    finish in any order and at the same time.
    """
    folder = Path(folder)
    table, runs = pd.DataFrame(), set[Path]()
    # A run that finishes meanwhile may write its own table, which this one then replaces.
    while (finished := {path for path in folder.glob("*/metrics.json") if (path.parent / FINISHED).exists()}) != runs:
        runs = finished
        table = _read_table(runs)
        with atomic_write(folder / "sweep.csv") as unfinished:
            table.to_csv(unfinished)
    return table


def _read_table(runs: Iterable[Path]) -> pd.DataFrame:
    settings, results = {}, {}
    for path in sorted(runs, key=lambda path: (len(path.parent.name), path.parent.name)):
        settings[path.parent.name] = _flatten(yaml.safe_load((path.parent / COMPOSED).read_text()))
        results[path.parent.name] = json.loads(path.read_text())
    table = pd.DataFrame.from_dict(settings, orient="index").drop(columns="output")
    differing = table.loc[:, table.astype(str).nunique(dropna=False) > 1]
    return differing.join(pd.DataFrame.from_dict(results, orient="index")).rename_axis("run")


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings as one dict with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
