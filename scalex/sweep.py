"""The table of a sweep: what differs between its runs, and how they scored."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from scalex.files import COMPOSED, written_whole

__all__ = ["write_sweep_table"]


def write_sweep_table(folder: str | Path) -> pd.DataFrame:
    """Write ``sweep.csv``: a row for each finished run below `folder`, with the settings that differ between them and their scores.

    Made anew from the runs' own files each time, so that runs may finish in any order.
    """
    settings, results = {}, {}
    for path in sorted(Path(folder).glob("*/metrics.json"), key=lambda path: (len(path.parent.name), path.parent.name)):
        settings[path.parent.name] = _flat(yaml.safe_load((path.parent / COMPOSED).read_text()))
        results[path.parent.name] = json.loads(path.read_text())
    asked = pd.DataFrame.from_dict(settings, orient="index").drop(columns="output")
    differing = asked.loc[:, asked.astype(str).nunique() > 1]
    table = differing.join(pd.DataFrame.from_dict(results, orient="index")).rename_axis("run")
    with written_whole(Path(folder) / "sweep.csv") as unfinished:
        table.to_csv(unfinished)
    return table


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings with dotted names."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat
