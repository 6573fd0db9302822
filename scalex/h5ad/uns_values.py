"""Nested values as .h5ad can hold them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

__all__ = ["writable"]


def writable(values: Mapping[str, Any]) -> dict[str, Any]:
    """The values with None left out, lists as arrays of text, and objects as their text."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        # A slash would make a group within the file.
        key = str(name).replace("/", "|")
        if isinstance(value, Mapping):
            plain[key] = writable(value)
        elif isinstance(value, list | tuple):
            plain[key] = np.array([str(item) for item in value], dtype=object)
        elif isinstance(value, bool | int | float | str):
            plain[key] = value
        elif value is not None:
            plain[key] = str(value)
    return plain
