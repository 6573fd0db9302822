"""Damaged files, and the errors that refuse them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scalex.cells import AnnDataSource

AGAIN = "It may be truncated or damaged: copy it again"


def open_cells(path: Any, **options: Any) -> Any:
    return AnnDataSource(path=path, **options).open()


def assert_refused(path: Any, match: str, error: type[Exception] = ValueError, **options: Any) -> None:
    """Assert that opening a file is an error whose message matches, and names the file."""
    with pytest.raises(error, match=match) as caught:
        open_cells(path, **options)
    assert Path(path).name.removesuffix("rna") in str(caught.value)


def find_file(store: Path, name: str) -> Path:
    """Return a file of a zarr store. Text of pandas 3 has its values one folder deeper."""
    path = store / name
    return path if path.exists() else path.parent / "values" / path.name


def truncate(path: Path, share: float = 0.5) -> Path:
    """Keep only the first share of a file."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flip_bytes(path: Path, at: int | None = None) -> Path:
    """Change 8 bytes in the middle of a file, or at an offset."""
    content = bytearray(path.read_bytes())
    at = len(content) // 2 if at is None else at
    content[at : at + 8] = bytes(byte ^ 255 for byte in content[at : at + 8])
    path.write_bytes(content)
    return path
