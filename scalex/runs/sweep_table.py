"""The table of a sweep: the settings in which its runs differ, and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from scalex.runs.folder import COMPOSED
from scalex.system.atomic_files import atomic_write

__all__ = ["write_sweep_table"]


def write_sweep_table(folder: str | Path) -> pd.DataFrame:
    """Write ``sweep.csv``: a row for each finished run below `folder`, with the settings in which they differ and their scores.

    The table is made from the files of all runs each time, so that runs may finish in any order or together. Without scores there is no
    table.
    """
    folder = Path(folder)
    table, runs = pd.DataFrame(), set[Path]()
    # A run that finishes meanwhile writes the table too, and this one could replace it.
    while (finished := set(folder.glob("*/metrics.json"))) != runs:
        runs = finished
        table = _make_table(runs)
        with atomic_write(folder / "sweep.csv", by_several=True) as unfinished:
            table.to_csv(unfinished)
    return table


def _make_table(runs: Iterable[Path]) -> pd.DataFrame:
    settings, results = {}, {}
    for path in sorted(runs, key=lambda path: (len(path.parent.name), path.parent.name)):
        settings[path.parent.name] = _flatten(yaml.safe_load((path.parent / COMPOSED).read_text()))
        results[path.parent.name] = json.loads(path.read_text())
    asked = pd.DataFrame.from_dict(settings, orient="index").drop(columns="output")
    differing = asked.loc[:, asked.astype(str).nunique() > 1]
    return differing.join(pd.DataFrame.from_dict(results, orient="index")).rename_axis("run")


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
