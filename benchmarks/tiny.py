"""The mode in which each command runs all of its code in seconds, so that a test can; it measures nothing."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

__all__ = ["parsed"]

HELP = "run all of the code on a few made cells, without other interpreters, in seconds; the figures mean nothing"


def parsed(parser: argparse.ArgumentParser, given: Sequence[str] | None, **tiny: Any) -> argparse.Namespace:
    """The arguments of a command, to which ``--tiny`` is added.

    Parameters
    ----------
    parser
        Knows all other arguments.
    given
        What was typed; None: the arguments of this process.
    **tiny
        Values that take the place of the parser's defaults with ``--tiny``. What was typed counts more.
    """
    parser.add_argument("--tiny", action="store_true", help=HELP)
    if parser.parse_args(given).tiny:
        parser.set_defaults(**tiny)
    return parser.parse_args(given)
