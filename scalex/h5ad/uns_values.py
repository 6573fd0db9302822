"""Values for uns of an .h5ad file."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from itertools import count
from typing import Any

import numpy as np

from scalex.features.annotation import make_writable_text

__all__ = ["convert_to_uns"]


def convert_to_uns(values: Mapping[str, Any]) -> dict[str, Any]:
    """Convert nested values to types that .h5ad can hold: lists to arrays of text, objects to text. None is dropped."""
    plain: dict[str, Any] = {}
    for name, value in values.items():
        key = _rename_key(name, plain)
        if isinstance(value, Mapping):
            plain[key] = convert_to_uns(value)
        elif isinstance(value, list | tuple):
            plain[key] = np.array([make_writable_text(item) for item in value], dtype=object)
        elif isinstance(value, bool | int | float):
            plain[key] = value
        elif value is not None:
            plain[key] = make_writable_text(value)
    return plain


def _rename_key(name: str, taken: Collection[str]) -> str:
    """Return a name for one more element of a group."""
    # In HDF5 a slash separates groups, and these names are the group itself and the one above: writing to them would delete it.
    key = make_writable_text(name).replace("/", "|")
    key = f'"{key}"' if key in ("", ".", "..") else key
    return key if key not in taken else next(free for n in count(1) if (free := f"{key}-{n}") not in taken)
