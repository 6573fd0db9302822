"""The folder of configurations, and how a file of it is read without Hydra."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["CONF", "list_options", "read_option"]

# A wheel has the files in the package. In a clone they are at the top.
CONF = next(path for path in (Path(__file__).parents[1] / "conf", Path(__file__).parents[2] / "conf") if (path / "train.yaml").is_file())


def list_options(group: str) -> list[str]:
    """Return the names of the options of a group, such as "model"."""
    return sorted(path.stem for path in (CONF / group).glob("*.yaml") if path.stem != "base")


def read_option(group: str, option: str) -> dict[str, Any]:
    """Return the settings of an option whose files refer to no other settings than those of their own group.

    Parameters
    ----------
    group
        A group, such as "model".
    option
        An option of it. The options that its ``defaults`` name come first, and settings with ``${...}`` are left out.
    """
    own = yaml.safe_load((CONF / group / f"{option}.yaml").read_text())
    settings: dict[str, Any] = {}
    for other in own.pop("defaults", []):
        settings |= read_option(group, other)
    settings |= own
    return {name: value for name, value in settings.items() if name != "_target_" and not (isinstance(value, str) and "${" in value)}
