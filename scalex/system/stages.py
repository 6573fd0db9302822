"""Lines of the log that say which stage a long work has reached: the only ones that a notebook shows unless it asks for all."""

from __future__ import annotations

import logging

__all__ = ["STAGE", "is_shown"]

# `extra` of such a line.
STAGE = {"stage": True}


def is_shown(record: logging.LogRecord) -> bool:
    """Return whether a line is a warning or says which stage is reached."""
    return record.levelno >= logging.WARNING or bool(getattr(record, "stage", False))
