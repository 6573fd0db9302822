"""The mode in which each command runs all of its code in seconds for tests, without meaningful figures."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any

__all__ = ["parse_arguments"]

HELP = "run all of the code on a few made cells, without other interpreters, in seconds; the figures mean nothing"


def parse_arguments(parser: argparse.ArgumentParser, argv: Sequence[str] | None, **tiny: Any) -> argparse.Namespace:
    """Return the arguments of a command, to which ``--tiny`` is added.

    Parameters
    ----------
    parser
        Parser of all other arguments.
    argv
        Arguments of the command. If None, those of this process.
    **tiny
        Values that replace the parser's defaults with ``--tiny``. Given arguments override them.
    """
    parser.add_argument("--tiny", action="store_true", help=HELP)
    if parser.parse_args(argv).tiny:
        parser.set_defaults(**tiny)
    return parser.parse_args(argv)
