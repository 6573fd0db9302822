"""The log of scalex, in a file and on the screen."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from scalex.system.processes import is_first

__all__ = ["log_to", "show_log"]


@contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """Write the log of scalex to a file, down to each epoch. Lightning logs only warnings.

    Only rank 0 logs below ERROR.
    """
    first = is_first()
    package = logging.getLogger("scalex")
    loggers = [package, *(logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric"))]
    before = [one.level for one in loggers]
    for one in loggers if not first else loggers[1:]:
        one.setLevel(logging.WARNING if first else logging.ERROR)
    handler = logging.NullHandler() if path is None else logging.FileHandler(path)
    if path is not None:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        package.setLevel(logging.DEBUG)
    package.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 uses an old name of torch 2.13 in each run.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            # Cells in memory are gathered faster than worker processes could send them.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # Older versions of torch do not have the new name of the option.
            warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated.*", category=FutureWarning)
            yield
    except BaseException as error:
        # For the file alone. The screen shows the error itself.
        package.debug("Stopped by %s: %s", type(error).__name__, error, exc_info=True)
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


@contextmanager
def show_log(verbose: bool) -> Iterator[None]:
    """Show the log on the screen, at least its warnings."""
    package = logging.getLogger("scalex")
    handler: Any = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    handler.setFormatter(logging.Formatter("%(message)s"))
    before, propagated = package.level, package.propagate
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    package.propagate = False
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(before)
        package.propagate = propagated
