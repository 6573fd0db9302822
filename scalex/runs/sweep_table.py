"""Table of a sweep: the settings that differ between its runs, and their scores."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import yaml

from scalex.runs.folder import COMPOSED, FINISHED
from scalex.system.atomic_files import atomic_write
from scalex.system.overrides import flatten

__all__ = ["Sweep", "read_sweep", "write_sweep_table"]


class Sweep(NamedTuple):
    """The finished runs of a sweep. The rows of both tables are the runs, by the names of their folders.

    Attributes
    ----------
    settings
        The settings that differ between the runs.
    scores
        Their scores.
    """

    settings: pd.DataFrame
    scores: pd.DataFrame


def write_sweep_table(folder: str | Path) -> pd.DataFrame:
    """Write ``sweep.csv`` with one row for each finished run in `folder`, and return the table. Without finished runs, no file is written.

    The columns are the settings that differ between the runs, and the scores. Each call reads the files of all runs, so that runs may
    finish in any order and at the same time.
    """
    folder = Path(folder)
    table, runs = pd.DataFrame(), set[Path]()
    # A run that finishes meanwhile may write its own table, which this one then replaces.
    while (finished := _find_finished(folder)) != runs:
        runs = finished
        sweep = _read_runs(runs)
        table = sweep.settings.join(sweep.scores).rename_axis("run")
        with atomic_write(folder / "sweep.csv") as unfinished:
            table.to_csv(unfinished)
    return table


def read_sweep(folder: Path) -> Sweep:
    """Return the settings and scores of the finished runs in a folder."""
    runs = _find_finished(folder)
    return _read_runs(runs) if runs else Sweep(pd.DataFrame(), pd.DataFrame())


def _find_finished(folder: Path) -> set[Path]:
    return {path for path in folder.glob("*/metrics.json") if (path.parent / FINISHED).exists()}


def _read_runs(runs: Iterable[Path]) -> Sweep:
    settings, results = {}, {}
    for path in sorted(runs, key=lambda path: (len(path.parent.name), path.parent.name)):
        settings[path.parent.name] = flatten(yaml.safe_load((path.parent / COMPOSED).read_text()))
        results[path.parent.name] = json.loads(path.read_text())
    table = pd.DataFrame.from_dict(settings, orient="index").drop(columns=["output", "run_name"], errors="ignore")
    differing = table.loc[:, table.astype(str).nunique(dropna=False) > 1]
    return Sweep(differing, pd.DataFrame.from_dict(results, orient="index"))
