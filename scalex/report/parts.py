"""Sections that the reports of trainings and of projections share."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from platform import python_version
from typing import Any

from scalex.pages.page import Section, make_table
from scalex.system.overrides import flatten

__all__ = ["make_settings", "make_versions"]

PACKAGES = ("scalex", "torch", "lightning", "anndata", "scanpy", "numpy", "pandas", "scikit-learn", "umap-learn")


def make_settings(parameters: Mapping[str, Any]) -> Section:
    """Return a section with all settings of a run."""
    rows = [[name, value if isinstance(value, str) else json.dumps(value, default=str)] for name, value in flatten(parameters).items()]
    table = make_table(["setting", "value"], rows)
    return Section("Settings", f"<details><summary>All settings</summary>{table}</details>")


def make_versions() -> Section:
    """Return a section with the versions of the packages that matter."""
    found = [f"Python {python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return Section("Versions", f"<p>{html.escape(', '.join(found))}</p>")
