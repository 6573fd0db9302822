"""Destinations of the log: a file and the screen."""

from __future__ import annotations

import errno
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from scalex.system.processes import is_first
from scalex.system.stages import is_shown

__all__ = ["log_to", "show_log"]


class _LogFile(logging.Handler):
    """A file of log lines. Unlike those of `logging`, which prints tracebacks, its errors are errors of the run."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        try:
            # The folder may be somebody else's, and a link in it may point to any file.
            self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o666)
        except OSError as error:
            hint = "it is a link; remove it" if error.errno == errno.ELOOP else error.strerror
            raise OSError(f"Cannot write to the log {path} ({hint}).") from error

    def emit(self, record: logging.LogRecord) -> None:
        # Names of files may be no UTF-8.
        text = f"{self.format(record)}\n".encode(errors="backslashreplace")
        try:
            while text:
                text = text[os.write(self._descriptor, text) :]
        except OSError as error:
            raise OSError(f"Cannot write to the log {self._path} ({error.strerror}).") from error

    def close(self) -> None:
        os.close(self._descriptor)
        super().close()


@contextmanager
def log_to(path: Path | None) -> Iterator[None]:
    """Write all log lines of scalex to a file, and show only warnings of Lightning, for the duration of the context.

    Only rank 0 logs below ERROR. Without a path, no file is written.
    """
    first = is_first()
    handler = logging.NullHandler() if path is None else _LogFile(path)
    package = logging.getLogger("scalex")
    loggers = [package, *(logging.getLogger(f"lightning.{part}") for part in ("pytorch", "fabric"))]
    before = [one.level for one in loggers]
    for one in loggers if not first else loggers[1:]:
        one.setLevel(logging.WARNING if first else logging.ERROR)
    if path is not None:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        package.setLevel(logging.DEBUG)
    package.addHandler(handler)
    try:
        with warnings.catch_warnings():
            # Lightning 2.6 uses a name that torch 2.13 deprecates.
            warnings.filterwarnings("ignore", message=".*LeafSpec.*", category=FutureWarning)
            # Cells in memory are gathered faster than worker processes could send them.
            warnings.filterwarnings("ignore", message=".*does not have many workers.*")
            # trainer=cpu on a machine with a GPU.
            warnings.filterwarnings("ignore", message="GPU available but not used")
            # Newer versions of torch rename this option, and older ones do not have the new name.
            warnings.filterwarnings("ignore", message=".*`broadcast_buffers` is deprecated.*", category=FutureWarning)
            yield
    except BaseException as error:
        # Only for the file: the screen shows the error itself, which may be that of a full disk.
        with suppress(OSError):
            package.debug("Stopped by %s: %s", type(error).__name__, error, exc_info=True)
        raise
    finally:
        package.removeHandler(handler)
        handler.close()
        for one, level in zip(loggers, before, strict=True):
            one.setLevel(level)


@contextmanager
def show_log(verbose: bool) -> Iterator[None]:
    """Show the log on the screen for the duration of the context: all lines if `verbose`, otherwise stages and warnings."""
    package = logging.getLogger("scalex")
    handler: Any = logging.StreamHandler(sys.stderr)
    handler.setLevel(logging.INFO)
    if not verbose:
        handler.addFilter(is_shown)
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
