"""Files that are damaged, and what is said about those that cannot be read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from scalex.cells import AnnDataSource

AGAIN = "It may be cut off or damaged: copy it again"


def opened(path: Any, **options: Any) -> Any:
    return AnnDataSource(path=path, **options).open()


def assert_refused(path: Any, match: str, error: type[Exception] = ValueError, **options: Any) -> None:
    """Opening it is an error, the message of which names the file, or that which holds the modality."""
    with pytest.raises(error, match=match) as caught:
        opened(path, **options)
    assert Path(path).name.removesuffix("rna") in str(caught.value)


def cut(path: Path, share: float = 0.5) -> Path:
    """The same file without its end."""
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


def flipped(path: Path, at: int | None = None) -> Path:
    """The same file with other bytes in its middle, or from a place on."""
    content = bytearray(path.read_bytes())
    at = len(content) // 2 if at is None else at
    content[at : at + 8] = bytes(byte ^ 255 for byte in content[at : at + 8])
    path.write_bytes(content)
    return path
