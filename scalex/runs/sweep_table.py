"""The table of a sweep: what differs between its runs, and how they scored."""

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
    """Write ``sweep.csv``: a row for each finished run below `folder`, with the settings that differ between them and their scores.

    Made anew from the runs' own files each time, so that runs may finish in any order, and at once. No table if none has scores.
    """
    folder = Path(folder)
    table, runs = pd.DataFrame(), set[Path]()
    # A run that finishes while the table is written may write its row, and lose it at once.
    while (finished := set(folder.glob("*/metrics.json"))) != runs:
        runs = finished
        table = _table(runs)
        with atomic_write(folder / "sweep.csv", by_several=True) as unfinished:
            table.to_csv(unfinished)
    return table


def _table(runs: Iterable[Path]) -> pd.DataFrame:
    settings, results = {}, {}
    for path in sorted(runs, key=lambda path: (len(path.parent.name), path.parent.name)):
        settings[path.parent.name] = _flatten(yaml.safe_load((path.parent / COMPOSED).read_text()))
        results[path.parent.name] = json.loads(path.read_text())
    asked = pd.DataFrame.from_dict(settings, orient="index").drop(columns="output")
    differing = asked.loc[:, asked.astype(str).nunique() > 1]
    return differing.join(pd.DataFrame.from_dict(results, orient="index")).rename_axis("run")


def _flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
