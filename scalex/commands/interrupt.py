"""Ctrl-C as one line instead of a traceback."""

from __future__ import annotations

import sys
from types import TracebackType

__all__ = ["explain_interrupt"]


def explain_interrupt() -> None:
    """Let Ctrl-C end this program with one line, also while it imports its libraries."""
    show_others = sys.excepthook

    def show(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if issubclass(kind, KeyboardInterrupt):
            sys.stderr.write("Stopped by Ctrl-C.\n")
        else:
            show_others(kind, error, trace)

    sys.excepthook = show
