"""Where what scalex says goes."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["logged_to"]


@contextmanager
def logged_to(path: Path | None) -> Iterator[None]:
    """While this lasts, write what scalex says, down to each epoch, to a file; of Lightning, let only warnings through."""
    package, lightning = logging.getLogger("scalex"), logging.getLogger("lightning.pytorch")
    before = package.level, lightning.level
    lightning.setLevel(logging.WARNING)
    handler = logging.NullHandler() if path is None else logging.FileHandler(path)
    if path is not None:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        package.setLevel(logging.DEBUG)
    package.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 asks torch 2.13 for something under its old name, at each run.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            # Cells in memory are gathered faster than worker processes could send them.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            yield
    except BaseException as error:
        # For the file alone: on the screen, the error speaks for itself.
        package.debug("Stopped by %s: %s", type(error).__name__, error, exc_info=True)
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
        package.setLevel(before[0])
        lightning.setLevel(before[1])
