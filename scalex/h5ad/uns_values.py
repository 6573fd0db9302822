"""Values for uns of an .h5ad file."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["convert_to_uns"]


def convert_to_uns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert nested values to types that .h5ad can hold: lists to arrays of text, objects to text. None is dropped."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        # A slash would create a group in the file.
        key = str(name).replace("/", "|")
        if isinstance(value, Mapping):
            plain[key] = convert_to_uns(value)
        elif isinstance(value, list | tuple):
            plain[key] = np.array([str(item) for item in value], dtype=object)
        elif isinstance(value, bool | int | float | str):
            plain[key] = value
        elif value is not None:
            plain[key] = str(value)
    return plain
